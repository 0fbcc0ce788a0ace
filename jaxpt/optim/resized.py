"""Schedules of stages whose batch size or sequence length changed on the way."""

import math
from collections.abc import Sequence
from fractions import Fraction

from jaxpt.config.duration import Duration, parse
from jaxpt.errors import JaxptError
from jaxpt.optim.schedule import Piece, Schedule, Segment, segments_of


def resolve_changed(
    schedule: Schedule,
    sizes: Sequence[tuple[int, int]],
    now: int,
    tokens: Fraction | None,
    where: str = "schedule",
) -> tuple[tuple[Segment, ...], Fraction]:
    """As `jaxpt.optim.schedule.resolve`, for a stage whose tokens per step changed on the way.

    Every segment lies where its own duration puts it: one in steps counts steps, one in tokens counts tokens, and parts
    of the stage ("10%", "rest") count what the stage's duration counts. So a segment neither starts again nor is
    skipped when the batch size changes, and the last one ends with the stage.

    Args:
        schedule: the stage's schedule.
        sizes: (steps, tokens per step) of all the stage's steps, those to come last.
        now: how many of the stage's steps are done.
        tokens: the stage's duration, which its last step may pass; None where it is in steps.
        where: config key for error messages.

    Returns:
        The segments, and the position in them of the step that comes next, both in steps of the last size.

    Raises:
        JaxptError: as `resolve`.
    """
    pieces, course = schedule.pieces(), _Course(sizes, tokens)
    durations = [parse(piece.duration, where, parts=True) for piece in pieces]
    edges = _edges(pieces, durations, course, where)
    lengths, position = [], Fraction(0)
    for duration, a, b in zip(durations, edges, edges[1:]):
        count = duration.unit == "tokens" or (tokens is not None and duration.unit != "steps")
        done = min(max(now, a), b)
        scale = Fraction(1, sizes[-1][1])
        lengths.append((course.tokens(b) - course.tokens(a)) * scale if count else Fraction(b - a))
        position += (course.tokens(done) - course.tokens(a)) * scale if count else done - a
    return segments_of(pieces, lengths, schedule.start, where), position


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

    def step(self, tokens: int | Fraction) -> Fraction:
        """The step at which so many tokens are done; past the end, as if the last size went on."""
        at = Fraction(0)
        for steps, size in self._sizes:
            if tokens <= steps * size:
                break
            tokens, at = tokens - steps * size, at + steps
        return at + Fraction(tokens) / size


def _edges(pieces: Sequence[Piece], durations: Sequence[Duration], course: _Course, where: str) -> list[int]:
    """First step of each segment, and the end: from the start up to the one that takes the rest, from the end after."""
    total = course.tokens(course.steps)

    def moved(at: int, d: Duration, sign: int) -> int:
        if d.unit == "steps":
            return at + sign * d.steps(1)
        if d.unit == "percent" and course.end is None:
            return at + sign * d.steps(1, course.steps)
        tokens = d.amount if d.unit == "tokens" else Fraction(total) * d.amount / 100
        step = course.step(course.tokens(at) + sign * tokens)
        return math.ceil(step) if sign > 0 else math.floor(step)

    units = [d.unit for d in durations]
    rest = units.index("rest") if "rest" in units else len(units)
    before, after = [0], [course.steps]
    for d in durations[:rest]:
        before.append(moved(before[-1], d, 1))
    for d in reversed(durations[rest + 1 :]):
        after.insert(0, moved(after[0], d, -1))
    rounding = len(units)  # each segment is rounded to whole steps
    fits = before[-1] <= after[0] if rest < len(units) else abs(before[-1] - course.steps) <= rounding
    if not fits or units.count("rest") > 1:
        listed = ", ".join(f"{piece.shape} {piece.duration}" for piece in pieces)
        raise JaxptError(f"{where}: the segments ({listed}) do not add up to the stage's {course.steps} steps")
    return [*before, *after] if rest < len(units) else [*(min(b, course.steps) for b in before[:-1]), course.steps]
