"""A resolved schedule: segments that lie on the steps of a stage, and the value of each step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, NamedTuple

from jaxpt.optim.course import Course

# How far a segment still is from its end, as a fraction: f(0) = 1, f(1) = 0.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: 0.5 * (1 + math.cos(math.pi * u)),
    "sqrt": lambda u: 1 - math.sqrt(u),  # the 1-sqrt cooldown of Hägele et al., arXiv 2405.18392
}
LAW = "law"  # the shape of a piece that follows `Schedule.law`


class Moment(NamedTuple):
    """What a law may look at: what was done before a step, of the stage and of the run, and the size of the step."""

    steps: int  # of the stage, before this step
    tokens: int | Fraction
    law_steps: int  # of the stage, before the law's own first step
    law_tokens: int | Fraction
    run_tokens: int  # of the run, before this step
    step_tokens: int  # B × S of this step
    peak: float  # the stage's, as a learning rate


@dataclass(frozen=True)
class Segment:
    """Steps [first, stop) of a stage from `start` to `end`, multiples of its peak.

    `length` is how long it is in what it counts, which may be more than its steps before the stage's end.
    """

    first: int
    stop: int
    shape: str
    start: float
    end: float
    counts: Literal["steps", "tokens"]
    length: int | Fraction

    @property
    def steps(self) -> int:
        """How many."""
        return self.stop - self.first

    def value(self, before: int | Fraction, after: int | Fraction) -> float:
        """Multiple of the peak at a step; of the segment, `before` is done before it and `after` after it.

        A rising segment takes the value reached at the end of the step, a falling one that at its start: so neither
        a warmup from 0 nor a decay to 0 spends a step on a rate of nothing.
        """
        if self.shape == "constant" or self.start == self.end:
            return self.end
        u = min(1.0, float((after if self.end > self.start else before) / self.length))
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** u
        return self.end + (self.start - self.end) * SHAPES[self.shape](u)


@dataclass(frozen=True)
class Curve:
    """The multiples of the peak over all steps of a stage; `law` gives those of segments whose shape is `LAW`."""

    segments: tuple[Segment, ...]
    course: Course
    law: Callable[[Moment], float]
    peak: float

    def multiple(self, step: int) -> float:
        """The multiple at a step of the stage; after the last segment its end."""
        segment = next((s for s in self.segments if step < s.stop), None)
        if segment is None:
            return self.segments[-1].end
        if segment.shape == LAW:
            return law_at(self.law, self.course, segment.first, step, self.peak)
        done = self.done(segment.counts, segment.first)
        before, after = self.done(segment.counts, step), self.done(segment.counts, step + 1)
        return segment.value(before - done, after - done)

    def done(self, counts: Literal["steps", "tokens"], step: int) -> int | Fraction:
        """What is done before a step, in steps or in tokens."""
        return step if counts == "steps" else self.course.tokens(step)

    def from_reached(self, step: int, value: float) -> "Curve":
        """Returns the curve from `step` on as a new segment from `value` makes it.

        A segment that moves goes from `value` to its own end, over what is left of it. Where the curve would stay, or
        follow a law, the value stays until the next segment begins.
        """
        i = next((i for i, s in enumerate(self.segments) if step < s.stop), len(self.segments) - 1)
        now, later = self.segments[i], list(self.segments[i + 1 :])
        if now.shape in ("constant", LAW):
            first = replace(now, first=step, shape="constant", start=value, end=value)
        else:
            length = now.length - (self.done(now.counts, step) - self.done(now.counts, now.first))
            first = replace(now, first=step, start=value, length=length)
        if later and later[0].shape not in ("constant", LAW):
            later[0] = replace(later[0], start=first.end)
        return replace(self, segments=(first, *later))


def law_at(law: Callable[[Moment], float], course: Course, first: int, step: int, peak: float) -> float:
    """What a law that holds from step `first` on gives at `step`."""
    done = (step, course.tokens(step), first, course.tokens(first))
    return law(Moment(*done, course.run_tokens(step), course.size(step), peak))


def ends_of(segments: Sequence[Segment], steps: int) -> list[tuple[str, int]]:
    """Returns the shape of each segment and how many of a stage's steps it takes."""
    return [(s.shape, max(0, min(s.stop, steps) - max(s.first, 0))) for s in segments]
