"""Learning-rate schedules as pieces: each a shape from one multiple of the peak to the next, in steps or in tokens.

A schedule says its pieces; `resolve` makes segments of them on the steps of a stage. Those that can be chosen lie in
`jaxpt.optim.schedules`, one file each.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxpt.config.choice import Choice, find, option
from jaxpt.errors import JaxptError, nearest
from jaxpt.optim.course import Course
from jaxpt.optim.curve import LAW, SHAPES, Curve, Moment, Segment, law_at
from jaxpt.optim.places import Stretch, placed

# What stood in every schedule of earlier versions and their stored configs, whatever its name.
OPTIONS_OF_ALL = {
    "warmup": "0 steps",
    "decay": "20%",
    "decay_shape": "linear",
    "end": 0.1,
    "start": 0.0,
    "segments": (),
}


@dataclass(frozen=True)
class Piece:
    """A piece of a schedule, as it is written: see `Segment` for what it becomes."""

    shape: str = option(doc="linear, cosine, sqrt, exponential or constant")
    duration: str = option(
        doc='"500 steps", "2M tokens", "10%" of the stage, "rest"; or where it ends: "until 500 steps" of the stage, '
        '"until 2B tokens of run"'
    )
    end: float = option(doc="multiple of the stage's peak at its end")


@dataclass(frozen=True)
class Schedule(Choice, kind="schedule", room="jaxpt.optim.schedules", default="cosine"):
    """How the learning rate moves through a stage, as multiples of its peak."""

    start: ClassVar[float] = 0.0  # where the first piece starts
    relative: ClassVar[bool] = False  # what follows a law ends at a multiple of where it starts, not of the peak

    def pieces(self) -> Sequence[Piece]:
        """What the schedule is made of; together the pieces last as long as the stage."""
        raise NotImplementedError

    def law(self, at: Moment) -> float:
        """The multiple of the peak at a moment of a piece whose shape is `LAW`: a function of what is done, not of how
        long the stage is."""
        raise NotImplementedError

    @classmethod
    def of_today(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leaves out what earlier versions stored with every schedule, where this one has no such option."""
        try:
            named = find(cls, values.get("name") or "cosine", "schedule.name")
        except JaxptError:
            return values  # whoever picks it by name says what is wrong
        own = {f.name for f in dataclasses.fields(named)}
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        idle = {key for key, default in OPTIONS_OF_ALL.items() if key not in own and plain.get(key) == default}
        return {key: value for key, value in values.items() if key not in idle}


def resolve(schedule: Schedule, steps: int, tokens_per_step: int, where: str = "schedule", peak: float = 1.0) -> Curve:
    """Returns the schedule of a stage of `steps` steps of one size, the first of its run.

    Args:
        schedule: the stage's schedule.
        steps: steps of the stage.
        tokens_per_step: B × S, for durations in tokens.
        where: config key for error messages.
        peak: the learning rate that multiples are of, for laws that look at it.

    Raises:
        JaxptError: as `resolve_on`.
    """
    return resolve_on(schedule, Course([(steps, tokens_per_step)]), where, peak)


def resolve_on(schedule: Schedule, course: Course, where: str = "schedule", peak: float = 1.0) -> Curve:
    """As `resolve`, for a stage anywhere in a run, whose tokens per step may change on the way.

    Every piece lies where its own duration puts it: one in steps counts steps, one in tokens counts tokens, and parts
    of the stage ("10%", "rest") count what the stage's duration counts. So a segment neither starts again nor is
    skipped when the batch size changes, and the last one ends with the stage.

    Raises:
        JaxptError: an unknown shape, pieces longer or shorter than the stage, an exponential at 0, a multiple below 0.
    """
    pieces = schedule.pieces()
    lying = placed([(piece.shape, piece.duration) for piece in pieces], course, where)
    return Curve(_segments(schedule, pieces, lying, course, where, peak), course, schedule.law, peak)


def learning_rate(curve: Curve, t: int, peak: float) -> float:
    """Learning rate at step `t` of the stage; the last value after its end."""
    return peak * curve.multiple(t)


def _segments(
    schedule: Schedule, pieces: Sequence[Piece], placed: Sequence[Stretch], course: Course, where: str, peak: float
) -> tuple[Segment, ...]:
    """The pieces as segments; those of no length are left out."""
    out, start, lawful = [], schedule.start, False
    for i, (piece, span) in enumerate(zip(pieces, placed)):
        _check_shape(piece, where)
        at_law = lambda first, step: law_at(schedule.law, course, first, step, peak)  # noqa: E731
        end = piece.end
        if piece.shape == LAW:
            start, end = at_law(span.first, span.first), at_law(span.first, span.stop)
            lawful = True
        elif schedule.relative and lawful:
            end *= start
        elif i + 1 < len(pieces) and pieces[i + 1].shape == LAW:
            end = at_law(span.stop, span.stop)
        if span.length:
            _check_values(piece, start, end, where)
            out.append(Segment(span.first, span.stop, piece.shape, start, end, span.counts, span.length))
        start = end
    return tuple(out)


def _check_shape(piece: Piece, where: str) -> None:
    if piece.shape not in SHAPES and piece.shape not in ("constant", "exponential", LAW):
        known = [*SHAPES, "constant", "exponential"]
        hint = nearest(piece.shape, known) or f"; known: {', '.join(known)}"
        raise JaxptError(f"{where}: {piece.shape!r} is not a shape{hint}")


def _check_values(piece: Piece, start: float, end: float, where: str) -> None:
    for value in (start, end):
        if not (math.isfinite(value) and value >= 0):
            raise JaxptError(f"{where}: {piece.shape} {piece.duration} goes to {value:g} times the peak; a learning "
                             f"rate is never below 0")  # fmt: skip
    if piece.shape == "exponential" and min(start, end) <= 0:
        raise JaxptError(
            f"{where}: an exponential segment ({piece.duration}) cannot start or end at 0; set end above 0"
        )
