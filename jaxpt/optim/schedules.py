"""Learning-rate schedules as segments: each a shape from one multiple of the peak to the next, over whole steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from jaxpt.config.duration import Duration, parse
from jaxpt.errors import JaxptError, nearest
from jaxpt.training.config import ScheduleConfig

# How far a segment still is from its end, as a fraction: f(0) = 1, f(1) = 0.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: 0.5 * (1 + math.cos(math.pi * u)),
    "sqrt": lambda u: 1 - math.sqrt(u),  # the 1-sqrt cooldown of Hägele et al., arXiv 2405.18392
}


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
    pieces = _pieces(config, where)
    return _segments_of(pieces, _lengths(pieces, steps, tokens_per_step, where), config.start, where)


def resolve_changed(
    config: ScheduleConfig,
    sizes: Sequence[tuple[int, int]],
    now: int,
    tokens: Fraction | None,
    where: str = "schedule",
) -> tuple[tuple[Segment, ...], Fraction]:
    """As `resolve`, for a stage whose tokens per step changed on the way.

    Every segment lies where its own duration puts it: one in steps counts steps, one in tokens counts tokens, and parts
    of the stage ("10%", "rest") count what the stage's duration counts. So a segment neither starts again nor is
    skipped when the batch size changes, and the last one ends with the stage.

    Args:
        config: the stage's schedule.
        sizes: (steps, tokens per step) of all the stage's steps, those to come last.
        now: how many of the stage's steps are done.
        tokens: the stage's duration, which its last step may pass; None where it is in steps.
        where: config key for error messages.

    Returns:
        The segments, and the position in them of the step that comes next, both in steps of the last size.

    Raises:
        JaxptError: as `resolve`.
    """
    pieces, course = _pieces(config, where), _Course(sizes, tokens)
    durations = [parse(d, where, parts=True) for _, d, _ in pieces]
    edges = _edges(pieces, durations, course, where)
    lengths, position = [], Fraction(0)
    for duration, a, b in zip(durations, edges, edges[1:]):
        count = duration.unit == "tokens" or (tokens is not None and duration.unit != "steps")
        done = min(max(now, a), b)
        scale = Fraction(1, sizes[-1][1])
        lengths.append((course.tokens(b) - course.tokens(a)) * scale if count else Fraction(b - a))
        position += (course.tokens(done) - course.tokens(a)) * scale if count else done - a
    return _segments_of(pieces, lengths, config.start, where), position


class _Course:
    """The steps of a stage and their tokens, where steps have several sizes; at most `end` tokens, if given."""

    def __init__(self, sizes: Sequence[tuple[int, int]], end: Fraction | None):
        self._sizes, self.end = sizes, end
        self.steps = sum(n for n, _ in sizes)

    def tokens(self, step: int) -> int | Fraction:
        """Tokens before `step`."""
        out: int | Fraction = 0
        for steps, size in self._sizes:
            out += max(0, min(step, steps)) * size
            step -= steps
        return out if self.end is None else min(out, self.end)

    def step(self, tokens: float) -> float:
        """The step at which so many tokens are done; past the end, as if the last size went on."""
        at = 0
        for steps, size in self._sizes:
            if tokens <= steps * size:
                break
            tokens, at = tokens - steps * size, at + steps
        return at + tokens / size


def _edges(pieces: Pieces, durations: Sequence[Duration], course: _Course, where: str) -> list[int]:
    """First step of each segment, and the end: from the start up to the one that takes the rest, from the end after."""
    total = course.tokens(course.steps)

    def moved(at: int, d: Duration, sign: int) -> int:
        if d.unit == "steps":
            return at + sign * d.steps(1)
        if d.unit == "percent" and course.end is None:
            return at + sign * d.steps(1, course.steps)
        tokens = d.amount if d.unit == "tokens" else float(total) * d.amount / 100
        step = course.step(float(course.tokens(at)) + sign * tokens)
        return math.ceil(step) if sign > 0 else math.floor(step)

    units = [d.unit for d in durations]
    open_ = units.index("rest") if "rest" in units else len(units)
    before, after = [0], [course.steps]
    for d in durations[:open_]:
        before.append(moved(before[-1], d, 1))
    for d in reversed(durations[open_ + 1 :]):
        after.insert(0, moved(after[0], d, -1))
    rounding = len(units)  # each segment is rounded to whole steps
    fits = before[-1] <= after[0] if open_ < len(units) else abs(before[-1] - course.steps) <= rounding
    if not fits or units.count("rest") > 1:
        named = ", ".join(f"{s} {d}" for s, d, _ in pieces)
        raise JaxptError(f"{where}: the segments ({named}) do not add up to the stage's {course.steps} steps")
    return [*before, *after] if open_ < len(units) else [*(min(b, course.steps) for b in before[:-1]), course.steps]


def _pieces(config: ScheduleConfig, where: str) -> Pieces:
    if config.name not in SCHEDULES:
        hint = nearest(config.name, SCHEDULES) or f"; known: {', '.join(SCHEDULES)}"
        raise JaxptError(f"{where}.name is {config.name!r}, which is no schedule{hint}")
    return SCHEDULES[config.name](config)


def _segments_of(pieces: Pieces, lengths: Sequence[int | Fraction], start: float, where: str) -> tuple[Segment, ...]:
    out = []
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


def learning_rate(segments: tuple[Segment, ...], t: int | Fraction, peak: float) -> float:
    """Learning rate at step `t` of the stage; the last value after its end."""
    for segment in segments:
        if t < segment.steps:
            return peak * segment.value(t)
        t -= segment.steps
    return peak * segments[-1].end
