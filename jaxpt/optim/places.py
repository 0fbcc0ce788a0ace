"""Where the pieces of a schedule lie: from durations as they are written to steps of a stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from jaxpt.config.duration import Duration, parse
from jaxpt.errors import JaxptError
from jaxpt.optim.course import Course

UNTIL, OF_RUN = "until ", " of run"


class Stretch(NamedTuple):
    """Steps [first, stop) of a piece, which may reach past the stage, and its length in what it counts."""

    first: int
    stop: int
    counts: Literal["steps", "tokens"]
    length: int | Fraction


@dataclass(frozen=True)
class _Place:
    """A piece's duration; with `until` the place where it ends, counted from the stage's or the run's first step."""

    shape: str
    text: str
    duration: Duration
    until: bool
    of_run: bool


def placed(pieces: Sequence[tuple[str, str]], course: Course, where: str) -> list[Stretch]:
    """Returns where each piece lies.

    Args:
        pieces: shape and duration of each, as they are written.
        course: the steps that they lie on.
        where: config key for error messages.

    Raises:
        JaxptError: no duration, pieces longer or shorter than the stage, places that go backwards, or places of the run
            beside lengths.
    """
    places = [_place(shape, text, where) for shape, text in pieces]
    if any(p.of_run for p in places) and not all(p.of_run or p.duration.unit == "rest" for p in places):
        raise JaxptError(
            f"{where}: {_listed(places)}: some of them are counted from the run's beginning, some are not; write "
            f'"until … of run" everywhere, or nowhere'
        )
    edges = _uniform(places, course, where) if course.uniform and not _of_run(places) else _edges(places, course, where)
    out = []
    for place, a, b in zip(places, edges, edges[1:]):
        if b < a:
            raise JaxptError(f"{where}: {place.shape} {place.text} ends before it begins ({_listed(places)})")
        counts, clipped = _counts(place, course), b <= course.steps and not place.of_run
        done = course.tokens if clipped else course.run_tokens
        out.append(Stretch(a, b, counts, b - a if counts == "steps" else done(b) - done(a)))
    return out


def _place(shape: str, text: str, where: str) -> _Place:
    rest, until, of_run = text.strip(), False, False
    if rest.startswith(UNTIL):
        rest, until = rest.removeprefix(UNTIL), True
        if rest.endswith(OF_RUN):
            rest, of_run = rest.removesuffix(OF_RUN), True
    duration = parse(rest, where, parts=not of_run)
    if until and duration.unit == "rest":
        raise JaxptError(f'{where} is {text!r}: write "rest" alone')
    return _Place(shape, text.strip(), duration, until, of_run)


def _of_run(places: Sequence[_Place]) -> bool:
    return any(p.of_run for p in places)


def _counts(place: _Place, course: Course) -> Literal["steps", "tokens"]:
    """What a piece counts; steps where that makes no difference."""
    unit = place.duration.unit
    in_tokens = unit == "tokens" or (course.end is not None and unit != "steps")
    return "tokens" if in_tokens and not (course.uniform and not place.of_run) else "steps"


def _uniform(places: Sequence[_Place], course: Course, where: str) -> list[int]:
    """Edges on steps of one size: whole steps each, rounded up; `rest` takes what is left."""
    size, edges, rest = course.size(0), [0], None
    after: list[int] = []
    for i, place in enumerate(places):
        d = place.duration
        if d.unit == "rest":
            if rest is not None:
                raise _misfit(places, course, "2 × rest", where)
            rest = i
        elif rest is not None:
            if place.until:
                raise JaxptError(f"{where}: {place.shape} {place.text} comes after rest; give it a length")
            after.append(d.steps(size, course.steps))
        else:
            n = d.steps(size, course.steps)
            edges.append(n if place.until else edges[-1] + n)
    cut = any(p.until for p in places) and edges[-1] > course.steps
    used = edges[-1] + sum(after)
    if cut and rest is None:
        return edges
    if used > course.steps and cut:  # the stage ends before what is left comes
        return [*edges, *([edges[-1]] * (1 + len(after)))]
    if used > course.steps or (rest is None and used < course.steps):
        raise _misfit(places, course, f"{used} steps and {0 if rest is None else 1} × rest", where)
    if rest is not None:
        edges.append(course.steps - sum(after))
        for n in after:
            edges.append(edges[-1] + n)
    return edges


def _edges(places: Sequence[_Place], course: Course, where: str) -> list[int]:
    """First step of each piece, and the end: from the start up to the one that takes the rest, from the end after."""
    total = course.tokens(course.steps)

    def moved(at: int, place: _Place, sign: int) -> int:
        d = place.duration
        if place.of_run:
            edge = Fraction(d.amount) if d.unit == "steps" else course.step_of_run(d.amount)
            return math.ceil(edge) - course.steps_before
        start = 0 if place.until else at
        if d.unit == "steps":
            return start + sign * d.steps(1)
        if d.unit == "percent" and course.end is None:
            return start + sign * d.steps(1, course.steps)
        tokens = d.amount if d.unit == "tokens" else Fraction(total) * d.amount / 100
        step = course.step_at(course.tokens(start) + sign * tokens)
        return math.ceil(step) if sign > 0 else math.floor(step)

    units = [p.duration.unit for p in places]
    rest = units.index("rest") if "rest" in units else len(units)
    before, after = [-course.steps_before if _of_run(places) else 0], [course.steps]
    for place in places[:rest]:
        before.append(moved(before[-1], place, 1))
    for place in reversed(places[rest + 1 :]):
        if place.until:
            raise JaxptError(f"{where}: {place.shape} {place.text} comes after rest; give it a length")
        after.insert(0, moved(after[0], place, -1))
    if units.count("rest") > 1:
        raise JaxptError(f"{where}: the segments ({_listed(places)}) have two times rest; one can take what is left")
    cut = any(p.until for p in places) and before[-1] > after[0]
    if rest < len(units):
        if before[-1] > after[0] and not cut:
            raise _not_added(places, course, where)
        return [*before, *after] if not cut else [*before, *([before[-1]] * len(after))]
    rounding = 0 if any(p.until for p in places) else len(units)  # each segment is rounded to whole steps
    if not cut and abs(before[-1] - course.steps) > rounding:
        raise _not_added(places, course, where)
    return before if cut else [*(min(b, course.steps) for b in before[:-1]), course.steps]


def _not_added(places: Sequence[_Place], course: Course, where: str) -> JaxptError:
    return JaxptError(f"{where}: the segments ({_listed(places)}) do not add up to the stage's {course.steps} steps")


def _misfit(places: Sequence[_Place], course: Course, take: str, where: str) -> JaxptError:
    return JaxptError(f"{where}: the segments ({_listed(places)}) take {take}, the stage has {course.steps}")


def _listed(places: Sequence[_Place]) -> str:
    return ", ".join(f"{p.shape} {p.text}" for p in places)
