"""A probe in its folder: base scores, fine-tune, scores after it, for one model after the other; killed, it goes on."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpt import tokenizers
from jaxpt.cli.stopping import EXIT_PREEMPTED
from jaxpt.cli.terminal import say
from jaxpt.data.build import Packing
from jaxpt.errors import JaxptError
from jaxpt.sweeps.results import LOSS, measure
from jaxpt.sweeps.sft_probe import ProbedModel, fitted, shortened
from jaxpt.sweeps.sft_scores import ProbeResult, ProbeScore, read_kept, write_json
from jaxpt.tokenizers import Tokenizer
from jaxpt.tokenizers.chat import named_template
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from jaxpt.training.sources import open_sources
from jaxpt.training.starting_point import open_start

Tune = Callable[[RunConfig, Path], int]  # trains in a run directory, goes on with what is there; the exit code
ScoreModel = Callable[[str, Path, str | None], dict[str, Any]]  # (model, folder, template of its prompts)
PARTS = 3  # of a model: base scores, fine-tune, scores after it


@dataclass
class SftProbe:
    """A probe and where it is kept: `models/NAME` holds a model's scores, and its fine-tune while that is needed.

    `settings` are what decides the scores; two starts with the same are one probe. `chat` says which scores are asked
    for in conversations: none, after, both. With `keep` the fine-tuned weights stay.
    """

    output: Path
    config: RunConfig
    settings: Mapping[str, Any]
    tune: Tune
    score: ScoreModel
    chat: str = "none"
    keep: bool = False
    _parts: tuple[int, int, float] = field(default=(0, 0, 0.0))  # done by this process, in all, and since when

    def claim(self) -> None:
        """Notes the settings in the output folder, or checks that they are those it was begun with.

        Raises:
            JaxptError: the folder holds another probe, or something else.
        """
        note = self.output / "probe.json"
        before = read_kept(note)
        if before is None:
            if other := [p.name for p in self.output.iterdir() if not p.name.startswith(".jaxpt")]:
                raise JaxptError(f"{self.output} holds {other[0]}, not a probe; give another --output_dir")
            write_json(note, self.settings)
        elif differs := [k for k in {**self.settings, **before} if before.get(k) != self.settings.get(k)]:
            if not any(self.output.glob("models/*/base.json")):  # a start that came to nothing settles nothing
                write_json(note, self.settings)
                return
            key = differs[0]
            shown = "" if key == "config" else f" ({before.get(key)!r}, now {self.settings.get(key)!r})"
            raise JaxptError(f"{self.output} was begun with another {key}{shown}; give another --output_dir")

    def run(self, models: Sequence[ProbedModel]) -> list[ProbeResult] | None:
        """Does what is not done; returns all results, those of earlier starts first, or None where a signal stopped it.

        Raises:
            JaxptError: a model is not the one that its folder was begun with, or cannot be tuned or scored.
        """
        done = [self._done(model) for model in models]
        self._parts = 0, sum(PARTS - n for n in done), time.monotonic()
        results = [self._result(model) for model in self._earlier(models)]
        for model, parts in zip(models, done):
            if not self._finish(model, parts):
                return None
            results.append(self._result(model))
        return results

    def _earlier(self, models: Sequence[ProbedModel]) -> list[ProbedModel]:
        """Models that an earlier start finished and this one does not name: checkpoints that are pruned since."""
        named = {model.name for model in models}
        folders = [f.parent for f in sorted(self.output.glob("models/*/after.json")) if f.parent.name not in named]
        known = [ProbedModel(**(read_kept(folder / "model.json") or {})) for folder in folders]
        return sorted(known, key=lambda model: model.step or 0)

    def _folder(self, model: ProbedModel) -> Path:
        return self.output / "models" / model.name

    def _done(self, model: ProbedModel) -> int:
        """How many parts of a model are done; a fine-tune by itself says how far it is."""
        folder = self._folder(model)
        known = read_kept(folder / "model.json")
        if known is not None and known["digest"] != model.digest:
            raise JaxptError(f"{model.path} is not the model that {folder} was begun with; give another --output_dir")
        return PARTS if (folder / "after.json").is_file() else int((folder / "base.json").is_file())

    def _finish(self, model: ProbedModel, done: int) -> bool:
        """Does the parts of a model that are not done; returns False where a signal stopped it."""
        folder = self._folder(model)
        if done < PARTS:
            config, template, said = self._fitted(model)
            if self._parts[0] == 0 and said:
                say("\n".join(said))
            write_json(folder / "model.json", dataclasses.asdict(model))
            if done < 1:
                with self._part(model, "base scores"):
                    prompts = template if self.chat == "both" else None
                    write_json(folder / "base.json", self.score(model.path, folder / "base", prompts))
            with self._part(model, f"fine-tune, {sum(stage.steps for stage in config.stages):,} steps"):
                code = self.tune(config, folder / "sft")
            if code:
                if code == EXIT_PREEMPTED:
                    return False
                raise JaxptError(f"the fine-tune of {model.name} ended with {code}; see {folder / 'sft.log'}")
            with self._part(model, "scores after it"):
                prompts = None if self.chat == "none" else template
                after = self.score(str(folder / "sft"), folder / "after", prompts)
                write_json(folder / "after.json", {**after, "sft_loss": _losses(folder / "sft")})
        if not self.keep and (folder / "sft" / "checkpoints").is_dir():
            shutil.rmtree(folder / "sft" / "checkpoints")  # of a run that this command made
        return True

    def _result(self, model: ProbedModel) -> ProbeResult:
        base, after = (read_kept(self._folder(model) / f"{name}.json") or {} for name in ("base", "after"))
        losses = after["sft_loss"]
        before, since = ([ProbeScore(**score) for score in part["scores"]] for part in (base, after))
        return ProbeResult(model, before, since, losses and (losses[0], losses[1]))

    @contextlib.contextmanager
    def _part(self, model: ProbedModel, what: str) -> Iterator[None]:
        """Says which part of how many begins, and how long the rest may take."""
        done, total, began = self._parts
        spent = time.monotonic() - began
        left = f"; {_minutes(spent)} so far, about {_minutes(spent / done * (total - done))} left" if done else ""
        say(f"part {done + 1} of {total}: {model.name}, {what}{left}")
        yield
        self._parts = done + 1, total, began

    def _fitted(self, model: ProbedModel) -> tuple[RunConfig, str, list[str]]:
        """The config of a model's fine-tune, the source of the template of its conversations, what became different."""
        start = open_start(model.path, "params", "--model")
        if start.tokenizer_path is None:
            raise JaxptError(f"{model.path} has no tokenizer, without which there are no conversations; add one")
        words = tokenizers.load(start.tokenizer_path)
        config, said = fitted(dataclasses.replace(self.config, init_from=model.path), start.model, words)
        sources, _ = open_sources(config, words)
        config, shorter = shortened(config, {name: source.rows for name, source in sources.items()})
        packing = next(source.pack for source in config.sources.values() if source.pack.kind == "chat")
        return config, _template(packing, words), [*said, *shorter]


def _template(packing: Packing, words: Tokenizer) -> str:
    name = packing.template
    if name is None:
        return words.chat_templates["default"]
    return words.chat_templates.get(name) or named_template(name)


def _losses(workdir: Path) -> tuple[float, float | None] | None:
    """The losses of the first record of a run, and of its last tenth."""
    records = [r for r in read(workdir / "metrics.jsonl") if LOSS in r]
    return (float(records[0][LOSS]), measure(records, LOSS, records[-1]["tokens"])) if records else None


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
