"""Learning-rate schedules as segments: each a shape from one multiple of the peak to the next, over whole steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxpt.config import ScheduleConfig
from jaxpt.duration import parse
from jaxpt.errors import JaxptError, nearest

# How far a segment still is from its end, as a fraction: f(0) = 1, f(1) = 0.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: 0.5 * (1 + math.cos(math.pi * u)),
    "sqrt": lambda u: 1 - math.sqrt(u),  # the 1-sqrt cooldown of Hägele et al., arXiv 2405.18392
}


@dataclass(frozen=True)
class Segment:
    """`steps` steps from `start` to `end`, both multiples of the stage's peak learning rate."""

    steps: int
    shape: str
    start: float
    end: float

    def value(self, t: int) -> float:
        """Multiple of the peak at step `t` of the segment, 0 ≤ t < steps.

        A rising segment takes the value reached at the end of the step, a falling one that at its start: so neither
        a warmup from 0 nor a decay to 0 spends a step on a rate of nothing.
        """
        if self.shape == "constant" or self.start == self.end:
            return self.end
        u = (t + 1 if self.end > self.start else t) / self.steps
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** u
        return self.end + (self.start - self.end) * SHAPES[self.shape](u)


Pieces = list[tuple[str, str, float]]  # shape, duration, end


def _cosine(c: ScheduleConfig) -> Pieces:
    return [("linear", c.warmup, 1.0), ("cosine", "rest", c.end)]


def _linear(c: ScheduleConfig) -> Pieces:
    return [("linear", c.warmup, 1.0), ("linear", "rest", c.end)]


def _constant(c: ScheduleConfig) -> Pieces:
    return [("linear", c.warmup, 1.0), ("constant", "rest", 1.0)]


def _wsd(c: ScheduleConfig) -> Pieces:
    """Warmup, stable, decay (Hu et al., arXiv 2404.06395)."""
    return [("linear", c.warmup, 1.0), ("constant", "rest", 1.0), (c.decay_shape, c.decay, c.end)]


def _segments(c: ScheduleConfig) -> Pieces:
    return [(s.shape, s.duration, s.end) for s in c.segments]


SCHEDULES: dict[str, Callable[[ScheduleConfig], Pieces]] = {
    "cosine": _cosine,
    "wsd": _wsd,
    "linear": _linear,
    "constant": _constant,
    "segments": _segments,
}


def resolve(config: ScheduleConfig, steps: int, tokens_per_step: int, where: str = "schedule") -> tuple[Segment, ...]:
    """Returns a stage's schedule as segments that together last exactly `steps` steps.

    Args:
        config: the stage's schedule.
        steps: steps of the stage.
        tokens_per_step: B × S, for durations in tokens.
        where: config key for error messages.

    Raises:
        JaxptError: an unknown schedule or shape, segments longer or shorter than the stage, an exponential at 0.
    """
    if config.name not in SCHEDULES:
        hint = nearest(config.name, SCHEDULES) or f"; known: {', '.join(SCHEDULES)}"
        raise JaxptError(f"{where}.name is {config.name!r}, which is no schedule{hint}")
    pieces = SCHEDULES[config.name](config)
    lengths = _lengths(pieces, steps, tokens_per_step, where)
    out, start = [], config.start
    for (shape, duration, end), length in zip(pieces, lengths):
        if shape not in SHAPES and shape not in ("constant", "exponential"):
            known = [*SHAPES, "constant", "exponential"]
            raise JaxptError(f"{where}: {shape!r} is no shape{nearest(shape, known) or '; known: ' + ', '.join(known)}")
        if length and shape == "exponential" and min(start, end) <= 0:
            raise JaxptError(f"{where}: an exponential segment ({duration}) cannot start or end at 0; set end above 0")
        if length:
            out.append(Segment(length, shape, start, end))
        start = end
    return tuple(out)


def _lengths(pieces: Pieces, steps: int, tokens_per_step: int, where: str) -> list[int]:
    durations = [parse(d, where, parts=True) for _, d, _ in pieces]
    fixed = [None if d.unit == "rest" else d.steps(tokens_per_step, steps) for d in durations]
    used, open_ = sum(n for n in fixed if n is not None), fixed.count(None)
    if used > steps or (not open_ and used < steps) or open_ > 1:
        told = ", ".join(f"{s} {d}" for s, d, _ in pieces)
        raise JaxptError(f"{where}: the segments ({told}) take {used} steps and {open_} × rest, the stage has {steps}")
    return [steps - used if n is None else n for n in fixed]


def learning_rate(segments: tuple[Segment, ...], t: int, peak: float) -> float:
    """Learning rate at step `t` of the stage; the last value after its end."""
    for segment in segments:
        if t < segment.steps:
            return peak * segment.value(t)
        t -= segment.steps
    return peak * segments[-1].end
