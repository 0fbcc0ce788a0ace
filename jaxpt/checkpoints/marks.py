"""Checkpoints that stay for their score: the best of each stage, and those that are still to be scored.

Whoever scores the checkpoints of a run (the run itself, or a process that follows it) keeps a small file
`RUN/scores/ENTRY/kept.json` of what it has seen; whoever removes checkpoints reads it. A checkpoint becomes the best
only when it is scored, and one that waits for its score stays: so none is removed that is the best a moment later.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxpt.checkpoints import run_item
from jaxpt.checkpoints.run_item import DamagedError, RunItem
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import whole_file

FOLDER, NAME = "scores", "kept.json"


@dataclass(frozen=True)
class ScoredCheckpoint:
    """The score of a checkpoint: the stage of its last step, the digest of its state, the value of the metric."""

    step: int
    stage: str
    digest: str
    value: float


@dataclass(frozen=True)
class KeptByScore:
    """What an entry's `kept.json` says.

    `metric` is a score by its name below the entry's, `waits` how many checkpoints without a score may stay for it.
    """

    entry: str
    metric: str
    higher_is_better: bool = True
    waits: int = 0
    scored: tuple[ScoredCheckpoint, ...] = ()

    def best(self, there: Mapping[int, str]) -> dict[str, ScoredCheckpoint]:
        """Returns the best of each stage among the checkpoints `there` (digest by step); of equals the earliest."""
        sign = 1 if self.higher_is_better else -1
        out: dict[str, ScoredCheckpoint] = {}
        for one in sorted(self._of(there), key=lambda s: s.step):
            known = out.get(one.stage)
            if not math.isnan(one.value) and (known is None or sign * one.value > sign * known.value):
                out[one.stage] = one
        return out

    def spared(self, there: Mapping[int, str]) -> set[int]:
        """Returns the steps that stay: the best of each stage, and the newest `waits` of those without a score."""
        scored = {one.step for one in self._of(there)}
        waiting = sorted(step for step in there if step not in scored)
        return {one.step for one in self.best(there).values()} | set(waiting[max(0, len(waiting) - self.waits) :])

    def _of(self, there: Mapping[int, str]) -> list[ScoredCheckpoint]:
        return [one for one in self.scored if there.get(one.step) == one.digest]


def folder(workdir: Path, entry: str) -> Path:
    """Returns where the scores of an entry lie."""
    return workdir / FOLDER / entry


def write(workdir: Path, kept: KeptByScore) -> None:
    """Writes an entry's `kept.json`, whole or not at all.

    Raises:
        JaxptError: it cannot be written.
    """
    target = folder(workdir, kept.entry) / NAME
    facts = {key: value for key, value in asdict(kept).items() if key != "entry"}
    with whole_file(target, target.with_suffix(".tmp")) as temporary:
        temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def read(workdir: Path) -> list[KeptByScore]:
    """Returns what the entries of a run keep, by name.

    Raises:
        JaxptError: a file that was not written here.
    """
    return [_read(file) for file in sorted((workdir / FOLDER).glob(f"*/{NAME}"))]


def _read(file: Path) -> KeptByScore:
    try:
        facts = json.loads(file.read_bytes())
        scored = tuple(ScoredCheckpoint(**one) for one in facts.pop("scored"))
        return KeptByScore(file.parent.name, scored=scored, **facts)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise JaxptError(f"{file} is broken; remove it, it is written again at the next score") from None


def digest_of(run: RunItem) -> str:
    """Returns one digest of a checkpoint's whole state, from its `run` item."""
    return canonical_digest(run["digests"])


def stage_of(run: RunItem) -> str:
    """Returns the stage of a checkpoint's last step; "" where it was written before checkpoints said so."""
    history = run.get("history", [])
    return str(history[-1]["stage"]) if history else ""


def digests_of(workdir: Path, steps: Iterable[int]) -> dict[int, str]:
    """Returns the digests of those checkpoints that can be read."""
    out = {}
    for step in steps:
        try:
            out[step] = digest_of(run_item.read(workdir / "checkpoints" / str(step)))
        except (OSError, DamagedError):  # removed meanwhile, or left to whoever restores it
            continue
    return out


def best_of(workdir: Path, steps: Sequence[int]) -> list[tuple[KeptByScore, ScoredCheckpoint]]:
    """Returns the best checkpoint of each entry and stage, oldest first, of the finished checkpoints `steps`."""
    kept = read(workdir)
    wanted = {one.step for k in kept for one in k.scored}
    there = digests_of(workdir, [step for step in steps if step in wanted])
    found = [(k, one) for k in kept for one in k.best(there).values()]
    return sorted(found, key=lambda f: f[1].step)
