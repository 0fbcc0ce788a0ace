"""The learning rate of a stage that goes on: where its schedule lies now, and where its own past holds it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.config.duration import parse
from jaxpt.errors import JaxptError
from jaxpt.optim.course import Course, Sizes
from jaxpt.optim.curve import Curve
from jaxpt.optim.schedule import resolve_on
from jaxpt.training.config import RunConfig, StageConfig
from jaxpt.training.history import Leg, spans, to_come

Since = tuple[int, float]  # a global step, and the multiple of the peak from which a new segment begins there


class Reached(NamedTuple):
    """What a checkpoint says of the rate of the stage that it was saved in.

    `duration` is what the stage had then, `rate` the learning rate of its last step, None where it is not known.
    `since` has the segments that earlier changes began, by stage.
    """

    stage: str
    duration: str
    rate: float | None
    since: Mapping[str, Since]


def reached(saved: RunItem | None, past: Sequence[Leg]) -> Reached | None:
    """Returns what is known of the rate of a run that goes on; None for a new one."""
    if saved is None or not past or past[-1].stage not in saved.get("durations", {}):
        return None
    name = past[-1].stage
    since = {stage: (int(step), float(value)) for stage, (step, value) in saved.get("segments_since", {}).items()}
    return Reached(name, saved["durations"][name], saved.get("learning_rate"), since)


def curve_of(
    stage: StageConfig, mine: Sequence[Leg], later: Sequence[Leg], before: Sizes, peak: float, where: str,
    known: Reached | None,
) -> tuple[Curve, Since | None]:  # fmt: skip
    """Returns the curve of a stage, and where a segment of its own began because the stage's length changed.

    A stage of another length than the checkpoint's plan had never moves what is done: where its schedule would have
    another rate at the next step only for the new length, a new segment begins there, from the rate that was reached.

    Args:
        stage: as configured now.
        mine: its legs that are done.
        later: those to come.
        before: sizes of the run's steps before it.
        peak: its peak.
        where: its config key.
        known: of the checkpoint that the run goes on from.

    Raises:
        JaxptError: as `resolve_on`; the rate that was reached is 0, so that nothing would be trained.
    """
    first = mine[0].first if mine else (later[0].first if later else 0)
    curve = _resolved(stage, mine, later, before, peak, where)
    since = known.since.get(stage.name) if known else None
    if since:
        curve = curve.from_reached(since[0] - first, since[1])
    if known is None or known.stage != stage.name or known.duration == stage.duration or not later:
        return curve, since
    done = later[0].first
    planned = replace(stage, duration=known.duration)
    try:
        old = _resolved(planned, mine, to_come(planned, done, mine), before, peak, where)
    except JaxptError:
        return curve, since  # the schedule itself is another one
    old = old.from_reached(since[0] - first, since[1]) if since else old
    if known.rate is None or not math.isclose(peak * old.multiple(done - 1 - first), known.rate, rel_tol=1e-6):
        return curve, since
    value = old.multiple(done - first)
    if math.isclose(curve.multiple(done - first), value, rel_tol=1e-9):
        return curve, since
    if value <= 0:
        raise JaxptError(
            f"{where}.duration is {stage.duration!r}, it was {known.duration!r}: stage {stage.name} has reached a "
            f"learning rate of 0 at step {done:,} and would go on with it; put a stage with a rate of its own behind "
            f"it, or go on from before its decay with --config.branch_from=RUN@STEP"
        )
    return curve.from_reached(done - first, value), (done, value)


def _resolved(
    stage: StageConfig, mine: Sequence[Leg], later: Sequence[Leg], before: Sizes, peak: float, where: str
) -> Curve:
    sizes = [(leg.steps, leg.tokens_per_step) for leg in (*mine, *later)]
    duration = parse(stage.duration, f"{where}.duration")
    end = Fraction(duration.amount) if duration.unit == "tokens" else None
    return resolve_on(stage.schedule, Course(sizes, end, before), f"{where}.schedule", peak)


class Outline(NamedTuple):
    """A stage of the config as it lies in the run, and its rate; `curve` is None where `StagePlan.schedule` is."""

    config: StageConfig
    whole: tuple[int, int]
    later: Sequence[Leg]
    curve: Curve | None
    peak: float
    since: Since | None

    def rate(self, step: int) -> float:
        """The learning rate at global step `step`."""
        assert self.curve is not None
        return self.peak * self.curve.multiple(step - self.whole[0])


def outlines(
    config: RunConfig, past: Sequence[Leg], known: Reached | None = None, branch: Mapping[str, Any] | None = None
) -> list[Outline]:
    """Returns where the stages of a run lie and what their learning rates are, which asks for no data and no model.

    Args:
        config: the run.
        past: the steps that are done.
        known: of the checkpoint that has them.
        branch: of a branch, what its checkpoints keep of where it began.

    Raises:
        JaxptError: as `curve_of`, and a stage of the past that was renamed, moved or removed.
    """
    out, before = [], [(leg.steps, leg.tokens_per_step) for leg in past if leg.inherited]
    default = branch["learning_rate"] if branch else config.optimizer.learning_rate
    done = past[-1].stop if past else 0
    for i, (stage, whole) in enumerate(zip(config.stages, spans(config.stages, past))):
        peak = default if stage.learning_rate is None else stage.learning_rate
        mine = [leg for leg in past if leg.stage == stage.name]
        later = to_come(stage, max(whole[0], done), mine) if whole[1] > done else []
        curve, since = None, None
        if later or [(leg.batch_size, leg.steps) for leg in mine] == stage.left(0, 0):  # or done as it is configured
            curve, since = curve_of(stage, mine, later, before, peak, f"config.stages[{i}]", known)
        before += [(leg.steps, leg.tokens_per_step) for leg in (*mine, *later)]
        out.append(Outline(stage, whole, later, curve, peak, since))
    return out


def new_segment(i: int, stage: Outline, saved: RunItem) -> str | None:
    """Returns a line where stage `i` goes on from the rate that it reached at the checkpoint; else None."""
    name, since = stage.config.name, stage.since
    if not since or since[0] != saved["step"] or saved.get("segments_since", {}).get(name) == list(since):
        return None
    return (
        f"config.stages[{i}].duration was {saved['durations'][name]!r}, is {stage.config.duration!r}: what is done "
        f"stays, and the rate does not jump to where a schedule of that length would be; from step {since[0]:,} on "
        f"stage {name} goes from {stage.rate(since[0]):.6g} to {stage.rate(stage.whole[1]):.6g} in a new segment, up "
        f"to step {stage.whole[1]:,}"
    )
