"""Learning-rate schedules as segments: each a shape from one multiple of the peak to the next, over whole steps.

A schedule says its pieces; `resolve` makes segments of them that last as long as the stage. Those that can be chosen
lie in `jaxpt.optim.schedules`, one file each.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from jaxpt.config.choice import Choice, find, option
from jaxpt.config.duration import parse
from jaxpt.errors import JaxptError, nearest

# How far a segment still is from its end, as a fraction: f(0) = 1, f(1) = 0.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: 0.5 * (1 + math.cos(math.pi * u)),
    "sqrt": lambda u: 1 - math.sqrt(u),  # the 1-sqrt cooldown of Hägele et al., arXiv 2405.18392
}

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
    duration: str = option(doc='"500 steps", "2M tokens", "10%" of the stage, or "rest"')
    end: float = option(doc="multiple of the stage's peak at its end")


@dataclass(frozen=True)
class Schedule(Choice, kind="schedule", room="jaxpt.optim.schedules", default="cosine"):
    """How the learning rate moves through a stage, as multiples of its peak."""

    start: ClassVar[float] = 0.0  # where the first piece starts

    def pieces(self) -> Sequence[Piece]:
        """What the schedule is made of; together the pieces last as long as the stage."""
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


@dataclass(frozen=True)
class Segment:
    """`steps` steps from `start` to `end`, both multiples of the stage's peak learning rate.

    Steps are of the stage's present size: where some of them had another, their number may be a fraction.
    """

    steps: int | Fraction
    shape: str
    start: float
    end: float

    def value(self, t: int | Fraction) -> float:
        """Multiple of the peak at step `t` of the segment, 0 ≤ t < steps.

        A rising segment takes the value reached at the end of the step, a falling one that at its start: so neither
        a warmup from 0 nor a decay to 0 spends a step on a rate of nothing.
        """
        if self.shape == "constant" or self.start == self.end:
            return self.end
        u = min(1.0, float((t + 1 if self.end > self.start else t) / self.steps))
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** u
        return self.end + (self.start - self.end) * SHAPES[self.shape](u)


def resolve(schedule: Schedule, steps: int, tokens_per_step: int, where: str = "schedule") -> tuple[Segment, ...]:
    """Returns a stage's schedule as segments that together last exactly `steps` steps.

    Args:
        schedule: the stage's schedule.
        steps: steps of the stage.
        tokens_per_step: B × S, for durations in tokens.
        where: config key for error messages.

    Raises:
        JaxptError: an unknown shape, pieces longer or shorter than the stage, an exponential at 0.
    """
    pieces = schedule.pieces()
    return segments_of(pieces, _lengths(pieces, steps, tokens_per_step, where), schedule.start, where)


def learning_rate(segments: Sequence[Segment], t: int | Fraction, peak: float) -> float:
    """Learning rate at step `t` of the stage; the last value after its end."""
    for segment in segments:
        if t < segment.steps:
            return peak * segment.value(t)
        t -= segment.steps
    return peak * segments[-1].end


def segments_of(
    pieces: Sequence[Piece], lengths: Sequence[int | Fraction], start: float, where: str
) -> tuple[Segment, ...]:
    """Returns pieces of the given lengths, in steps, as segments; those of no length are left out.

    Raises:
        JaxptError: an unknown shape, an exponential at 0.
    """
    out = []
    for piece, length in zip(pieces, lengths):
        if piece.shape not in SHAPES and piece.shape not in ("constant", "exponential"):
            known = [*SHAPES, "constant", "exponential"]
            hint = nearest(piece.shape, known) or f"; known: {', '.join(known)}"
            raise JaxptError(f"{where}: {piece.shape!r} is not a shape{hint}")
        if length and piece.shape == "exponential" and min(start, piece.end) <= 0:
            raise JaxptError(
                f"{where}: an exponential segment ({piece.duration}) cannot start or end at 0; set end above 0"
            )
        if length:
            out.append(Segment(length, piece.shape, start, piece.end))
        start = piece.end
    return tuple(out)


def _lengths(pieces: Sequence[Piece], steps: int, tokens_per_step: int, where: str) -> list[int]:
    durations = [parse(piece.duration, where, parts=True) for piece in pieces]
    fixed = [None if d.unit == "rest" else d.steps(tokens_per_step, steps) for d in durations]
    used, rests = sum(n for n in fixed if n is not None), fixed.count(None)
    if used > steps or (not rests and used < steps) or rests > 1:
        listed = ", ".join(f"{piece.shape} {piece.duration}" for piece in pieces)
        raise JaxptError(
            f"{where}: the segments ({listed}) take {used} steps and {rests} × rest, the stage has {steps}"
        )
    return [steps - used if n is None else n for n in fixed]
