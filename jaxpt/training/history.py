"""What a run has done, as legs of steps; and from there on where its stages begin and end."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.errors import JaxptError
from jaxpt.training.config import StageConfig

TRUNK = "trunk/"  # before the name of an inherited stage; no stage of a config has a slash in its name


@dataclass(frozen=True)
class Leg:
    """Global steps [first, stop) of the stage named `stage`, each of `batch_size` rows of `sequence_length` tokens.

    Those that a branch has from the run it came from are called `trunk/STAGE`.
    """

    stage: str
    first: int
    stop: int
    batch_size: int
    sequence_length: int

    @property
    def tokens_per_step(self) -> int:
        """B × S."""
        return self.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """How many."""
        return self.stop - self.first

    @property
    def inherited(self) -> bool:
        """Whether another run took these steps, which this one branched from."""
        return self.stage.startswith(TRUNK)

    @property
    def tokens(self) -> int:
        """Positions (B × S) of all its steps."""
        return self.steps * self.tokens_per_step


def until(legs: Sequence[Leg], step: int) -> tuple[Leg, ...]:
    """Returns the legs of the steps before `step`."""
    return tuple(replace(leg, stop=min(leg.stop, step)) for leg in legs if leg.first < step)


def joined(legs: Sequence[Leg]) -> tuple[Leg, ...]:
    """Returns `legs` with neighbours of the same stage and size made one."""
    out: list[Leg] = []
    for leg in legs:
        if out and replace(out[-1], first=0, stop=0) == replace(leg, first=0, stop=0):
            out[-1] = replace(out[-1], stop=leg.stop)
        elif leg.steps:
            out.append(leg)
    return tuple(out)


def read_legs(saved: RunItem, stages: Sequence[StageConfig]) -> tuple[Leg, ...]:
    """Returns the legs of all steps before a checkpoint.

    Args:
        saved: its `run` item. One without `history` (written before there was one) is read from its schedule log, which
            knows the stages by their places only.
        stages: the config's, which give those places their names.
    """
    if "history" in saved:
        return tuple(Leg(**leg) for leg in saved["history"])
    step, log = saved["step"], saved["schedule_log"]
    sizes = [a for a in log["anchors"] if a["step"] < step]
    starts = [e["step"] for e in log["entries"] if e["step"] < step]
    edges = sorted({*(a["step"] for a in sizes), *starts, step})
    legs = []
    for first, stop in itertools.pairwise(edges):
        place = sum(s <= first for s in starts) - 1
        name = stages[place].name if place < len(stages) else f"stage{place}"
        size = next(a for a in reversed(sizes) if a["step"] <= first)
        legs.append(Leg(name, first, stop, size["batch_size"], size["sequence_length"]))
    return joined(legs)


def newest_saved(workdir: Path, step: int | None = None) -> RunItem | None:
    """Returns the `run` item of the newest finished checkpoint, or of that of `step`; None where it cannot be read.

    This is for what is checked and shown before the run is restored: what then holds is in the checkpoint that was
    restored, and the restore says what is wrong with one that cannot be read.
    """
    steps = finished_steps(workdir)
    try:
        return read_run(workdir, steps[-1] if step is None else step) if steps else None
    except (OSError, ValueError, JaxptError):
        return None


def spans(stages: Sequence[StageConfig], legs: Sequence[Leg] = ()) -> list[tuple[int, int]]:
    """Returns `(first, stop)` of every stage in global steps: what is done from `legs`, the rest from the config.

    The stage in progress lasts as long as its duration says now, less what was done in it; where more than that is
    done, it ends at the last step done. Stages before it ended where they ended.

    Raises:
        JaxptError: a stage that has begun was renamed, removed or moved.
    """
    begun = list(dict.fromkeys(leg.stage for leg in legs if not leg.inherited))
    _check(stages, begun, legs)
    out, at = [], max((leg.stop for leg in legs if leg.inherited), default=0)
    for i, stage in enumerate(stages):
        mine = [leg for leg in legs if leg.stage == stage.name]
        first = mine[0].first if mine else at
        at = mine[-1].stop if mine else first
        if i >= len(begun) - 1:
            at += max(0, sum(steps for _, steps in left(stage, mine)))
        out.append((first, at))
    return out


def whole(stages: Sequence[StageConfig], past: Sequence[Leg] = ()) -> tuple[Leg, ...]:
    """Returns the legs of the whole run: those that are done, and those to come."""
    done, out = past[-1].stop if past else 0, list(past)
    for stage, (first, stop) in zip(stages, spans(stages, past)):
        if stop > done:
            out += to_come(stage, max(first, done), [leg for leg in past if leg.stage == stage.name])
    return joined(out)


def to_come(stage: StageConfig, first: int, mine: Sequence[Leg] = ()) -> list[Leg]:
    """Returns the legs of a stage that come after those done in it, from global step `first` on."""
    out = []
    for batch_size, steps in left(stage, mine):
        if steps > 0:
            out.append(Leg(stage.name, first, first + steps, batch_size, stage.sequence_length))
            first += steps
    return out


def left(stage: StageConfig, mine: Sequence[Leg]) -> list[tuple[int, int]]:
    """Returns (batch size, steps) of what a stage has left after the legs done in it; steps below 0: too many done.

    A duration in tokens counts tokens done, one in steps counts steps done.
    """
    return stage.left(sum(leg.steps for leg in mine), sum(leg.tokens for leg in mine))


def _check(stages: Sequence[StageConfig], begun: Sequence[str], legs: Sequence[Leg]) -> None:
    for i, name in enumerate(begun):
        now = stages[i].name if i < len(stages) else None
        if now == name:
            continue
        there = "is missing" if now is None else f"is named {now!r}"
        first = next(leg.first for leg in legs if leg.stage == name)
        raise JaxptError(
            f"config.stages[{i}] {there}, the run has trained stage {name!r} there, from step {first} on; keep the "
            f"stages that have begun with their names and in their order, and put others after them"
        )


def tokens_before(legs: Sequence[Leg], step: int) -> int:
    """Returns the positions (B × S) in the steps of `legs` before `step`."""
    return sum(max(0, min(step, leg.stop) - leg.first) * leg.tokens_per_step for leg in legs)


def to_json(legs: Sequence[Leg]) -> list[dict[str, Any]]:
    """Returns plain values."""
    return [asdict(leg) for leg in legs]
