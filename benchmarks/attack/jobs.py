"""Jobs that are stopped, starved or run twice: each writes into one folder, and its result is one answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.attack.children import Children
from benchmarks.attack.victims import LENGTH, Victims


@dataclass(frozen=True)
class Job:
    """`call(victims, folder)` does it, `answer(folder)` says what came of it."""

    name: str
    call: Callable[[Victims, Path], list[Any]]
    answer: Callable[[Path], list[Any]]

    def undisturbed(self, victims: Victims, children: Children, folder: Path) -> tuple[Any, float]:
        """Returns the answer and the seconds of a run that was left alone; raises SystemExit where it fails."""
        outcome = children.call(self.call(victims, folder), limit=300)
        answer = children.call(self.answer(folder))
        if outcome.code or answer.code:
            raise SystemExit(f"{self.name} fails undisturbed: {(outcome.text + answer.text)[-2000:]}")
        return answer.answer, outcome.seconds


def _data(*argv: str) -> list[Any]:
    return ["command", "jaxpt-data", *argv]


def _tokenizer(v: Victims) -> str:
    return f"--tokenizer={v.folder / 'tokenizer.model'}"


RESHAPE = Path(__file__).parents[2] / "configs/reshape/subclone.py"
JOBS = {
    job.name: job
    for job in (
        Job("train", lambda v, f: v.train(f / "run"), lambda f: ["state", str(f / "run")]),
        Job(
            "pack",
            lambda v, f: _data("pack", f"--input={v.text}/*.jsonl*", f"--output={f / 'packed'}",
                               f"--sequence_length={LENGTH}", _tokenizer(v)),
            lambda f: ["packed_below", str(f)],
        ),
        Job(
            "tokenize",
            lambda v, f: _data("tokenize", f"--input={v.text}/*.jsonl*", f"--output={f / 'tokens'}", _tokenizer(v)),
            lambda f: ["bytes_below", str(f / "tokens")],
        ),
        Job(
            "pipeline",
            lambda v, f: _data("run", f"--config={v.pipeline_config}", f"--workdir={f / 'data'}"),
            lambda f: ["packed_below", str(f / "data" / "pack")],
        ),
        Job(
            "cache",
            lambda v, f: ["cached", str(v.text / "a.jsonl.gz"), LENGTH, str(v.folder / "tokenizer.model"),
                          str(f / "cache")],
            lambda f: ["packed_below", str(f / "cache")],
        ),
        Job("save", lambda v, f: ["save", str(v.run), str(f / "bundle")], lambda f: ["load", str(f / "bundle")]),
        Job(
            "import",
            lambda v, f: ["command", "jaxpt", "import", f"--from={v.hf}", f"--to={f / 'bundle'}"],
            lambda f: ["load", str(f / "bundle")],
        ),
        Job(
            "export",
            lambda v, f: ["command", "jaxpt", "export", f"--from={v.bundle}", f"--to={f / 'hf'}"],
            lambda f: ["bytes_below", str(f / "hf")],
        ),
        Job(
            "reshape",
            lambda v, f: ["command", "jaxpt", "reshape", f"--config={RESHAPE}:uniform", f"--from={v.bundle}",
                          f"--to={f / 'bundle'}", "--config.target.layers=1"],
            lambda f: ["load", str(f / "bundle")],
        ),
    )
}  # fmt: skip
