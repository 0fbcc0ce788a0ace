"""Schedules that do not know how long they last follow their closed forms at every step, whatever a batch holds."""

import math
from fractions import Fraction

import pytest

from jaxpt.errors import JaxptError
from jaxpt.optim.course import Course
from jaxpt.optim.schedule import Piece, resolve, resolve_on
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.optim.schedules.cosine_restarts import CosineRestarts
from jaxpt.optim.schedules.inverse_sqrt import InverseSqrt
from jaxpt.optim.schedules.linear import Linear
from jaxpt.optim.schedules.multistep import Multistep
from jaxpt.optim.schedules.power import Power
from jaxpt.optim.schedules.segments import Segments
from jaxpt.optim.schedules.wsd import Wsd

SIZES = [(20, 64), (30, 128), (50, 256)]  # a batch that grows twice
TOKENS = [sum(min(max(t - a, 0), n) * size for a, (n, size) in zip((0, 20, 50), SIZES)) for t in range(101)]
RUN = 7 * 32 + 5 * 64  # tokens of the run before the stage


def grown(schedule, peak=2.0):
    """The multiples of a stage whose batch grows, in a run that was trained before it."""
    curve = resolve_on(schedule, Course(SIZES, None, [(7, 32), (5, 64)]), "schedule", peak)
    return [curve.multiple(t) for t in range(100)]


def plain(schedule, peak=2.0):
    """The multiples of a stage of 100 steps of 64 tokens."""
    curve = resolve(schedule, 100, 64, peak=peak)
    return [curve.multiple(t) for t in range(100)]


@pytest.mark.parametrize(
    ("schedule", "shape", "end", "edge"),
    [
        (Linear(warmup="640 tokens", end=0.2), "linear", 0.2, 640),
        (Cosine(warmup="640 tokens", end=0.1), "cosine", 0.1, 640),
        (Wsd(warmup="640 tokens", decay="25%", decay_shape="sqrt", end=0.0), "sqrt", 0.0, 13_440),
        (Wsd(warmup="640 tokens", decay="4096 tokens", decay_shape="linear", end=0.1), "linear", 0.1, 13_824),
    ],
)
def test_those_that_know_their_length_count_tokens_where_the_batch_grows(schedule, shape, end, edge):
    curve = resolve_on(schedule, Course(SIZES, Fraction(TOKENS[100])))
    first = max(t for t in range(101) if TOKENS[t] <= edge)  # a decay begins with a whole step
    u = [(TOKENS[t] - TOKENS[first]) / (TOKENS[100] - TOKENS[first]) for t in range(first, 100)]
    assert [curve.multiple(t) for t in range(10)] == pytest.approx([(t + 1) / 10 for t in range(10)], rel=1e-12)
    assert {curve.multiple(t) for t in range(10, first)} <= {1.0}
    closed = [end + (1 - end) * SHAPES[shape](x) for x in u]
    assert [curve.multiple(t) for t in range(first, 100)] == pytest.approx(closed, rel=1e-12)


SHAPES = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "sqrt": lambda u: 1 - math.sqrt(u),
}


def test_multistep_drops_where_it_says_in_steps_in_parts_and_in_tokens():
    closed = [(t + 1) / 5 if t < 5 else 1.0 if t < 60 else 0.316 if t < 85 else 0.1 for t in range(100)]
    assert plain(Multistep(warmup="5 steps", at=("60%", "85%"))) == pytest.approx(closed, rel=1e-15)
    assert plain(Multistep(warmup="5 steps", at=("60 steps", "85 steps"))) == pytest.approx(closed, rel=1e-15)
    got = grown(Multistep(warmup="5 steps", at=("2k tokens", "10k tokens"), values=(0.5, 0.2)))
    assert got[5:] == [1.0 if TOKENS[t] < 2000 else 0.5 if TOKENS[t] < 10_000 else 0.2 for t in range(5, 100)]


def test_the_inverse_square_root_has_its_closed_form_in_steps_and_in_tokens():
    got = plain(InverseSqrt(warmup="10 steps"))
    assert got == pytest.approx([(t + 1) / 10 if t < 10 else math.sqrt(10 / t) for t in range(100)], rel=1e-12)
    got = grown(InverseSqrt(warmup="640 tokens"))
    assert got[10:] == pytest.approx([math.sqrt(640 / TOKENS[t]) for t in range(10, 100)], rel=1e-12)
    got = grown(InverseSqrt(warmup="10 steps", timescale="3k tokens"))
    assert got[10:] == pytest.approx([math.sqrt(3000 / (3000 + TOKENS[t] - 640)) for t in range(10, 100)], rel=1e-12)


def test_its_decay_begins_at_the_rate_that_was_reached():
    got = plain(InverseSqrt(warmup="10 steps", decay="20 steps", end=0.5))
    top = math.sqrt(10 / 80)
    assert got[79] == pytest.approx(math.sqrt(10 / 79))
    assert got[80:] == pytest.approx([top * (1 - 0.5 * (t - 80) / 20) for t in range(80, 100)], rel=1e-12)


def power(tokens, size, peak):
    """Equation 7 of the paper, as a multiple of the peak."""
    return min(peak, size / 64 * 4.0 * tokens**-0.51) / peak if tokens else 1.0


@pytest.mark.parametrize("peak", [0.02, 0.2])
def test_the_power_schedule_counts_the_tokens_of_the_run_and_the_rows_of_the_batch(peak):
    got = grown(Power(row=64, warmup="4 steps", decay="10 steps"), peak)
    size = [64] * 20 + [128] * 30 + [256] * 50
    law = [power(RUN + TOKENS[t], size[t], peak) for t in range(100)]
    assert got[4:90] == pytest.approx(law[4:90], rel=1e-12)
    assert got[:4] == pytest.approx([law[4] * (t + 1) / 4 for t in range(4)], rel=1e-12)  # equation 8
    assert got[90:] == pytest.approx([law[90] * (1 - t / 10) for t in range(10)], rel=1e-12)
    assert (law[50] > law[49]) == (law[49] < 1)  # a larger batch, a higher rate: the peak is only a bound
    assert resolve(Power(row=64), 100, 64, peak=peak).multiple(0) == 1.0  # before the first token


def test_a_power_law_that_forgot_the_run_or_the_batch_would_be_noticed():
    size = [64] * 20 + [128] * 30 + [256] * 50
    got = grown(Power(row=64, decay="0 steps"), 0.2)
    assert got != pytest.approx([power(TOKENS[t], size[t], 0.2) for t in range(100)], rel=1e-3)
    assert got != pytest.approx([power(RUN + TOKENS[t], 64, 0.2) for t in range(100)], rel=1e-3)


def restarts(done, period, growth, peaks, end):
    number, length = 0, period
    while done >= length:
        done, length, number = done - length, length * growth, number + 1
    return end + (peaks**number - end) * 0.5 * (1 + math.cos(math.pi * done / length))


@pytest.mark.parametrize(("growth", "peaks"), [(1.0, 1.0), (1.0, 0.8), (2.0, 1.0), (1.5, 0.9)])
def test_a_cosine_with_restarts_has_its_closed_form_in_steps_and_in_tokens(growth, peaks):
    options = {"growth": growth, "peaks": peaks, "end": 0.05}
    got = plain(CosineRestarts(period="20 steps", warmup="5 steps", **options))
    assert got[5:] == pytest.approx([restarts(t - 5, 20, growth, peaks, 0.05) for t in range(5, 100)], rel=1e-12)
    got = grown(CosineRestarts(period="2k tokens", **options))
    assert got == pytest.approx([restarts(TOKENS[t], 2000, growth, peaks, 0.05) for t in range(100)], rel=1e-12)


@pytest.mark.parametrize("steps", [50, 100, 137])
def test_segments_with_places_are_the_same_however_long_the_stage_is(steps):
    places = ("until 10 steps", "until 60 steps", "until 200 steps")
    schedule = Segments(segments=tuple(map(Piece, ("linear", "constant", "cosine"), places, (1.0, 1.0, 0.1))))
    whole, got = resolve(schedule, 200, 64), resolve(schedule, steps, 64)
    assert [got.multiple(t) for t in range(steps)] == [whole.multiple(t) for t in range(steps)]
    assert whole.multiple(130) == pytest.approx(0.1 + 0.9 * 0.5)
    with pytest.raises(JaxptError, match=r"take 200 steps and 0 × rest, the stage has 201"):
        resolve(schedule, 201, 64)


@pytest.mark.parametrize("first", [0, 30, 70])
def test_places_of_the_run_give_every_stage_its_part_of_one_curve(first):
    places = ("until 10 steps of run", "until 5k tokens of run", "until 14k tokens of run")
    pieces = [*map(Piece, ("linear", "constant", "linear"), places, (1.0, 1.0, 0.0)), Piece("constant", "rest", 0.0)]
    schedule = Segments(segments=tuple(pieces))
    whole = resolve_on(schedule, Course(SIZES))
    sizes = [size for n, size in SIZES for _ in range(n)]
    mine, before = [(1, s) for s in sizes[first:]], [(1, s) for s in sizes[:first]]
    part = resolve_on(schedule, Course(mine, None, before))
    assert [part.multiple(t) for t in range(100 - first)] == [whole.multiple(t) for t in range(first, 100)]
    edge = next(t for t in range(100) if TOKENS[t] >= 5000)
    closed = [1 - (TOKENS[t] - TOKENS[edge]) / (TOKENS[first_at(14_000)] - TOKENS[edge]) for t in range(edge, 100)]
    assert [whole.multiple(t) for t in range(edge, first_at(14_000))] == pytest.approx(
        closed[: first_at(14_000) - edge], rel=1e-12
    )


def first_at(tokens):
    return next(t for t in range(101) if TOKENS[t] >= tokens)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineRestarts(period="10%"), "period is '10%', it must be a duration"),
        (lambda: CosineRestarts(growth=0.5), "growth is 0.5 and peaks 1; growth is at least 1"),
        (lambda: InverseSqrt(warmup="0 steps"), "timescale is '0 steps'; give one, or a warmup"),
        (lambda: Multistep(values=(0.1,)), "at has 2 places and values 1 entries"),
        (lambda: Power(exponent=0.5), "exponent 0.5"),
        (lambda: plain(Multistep(at=("90%", "80%"))), "constant until 80% ends before it begins"),
        (lambda: plain(Linear(end=-0.1)), "goes to -0.1 times the peak; a learning rate is never below 0"),
        (
            lambda: plain(
                Segments(segments=(Piece("linear", "until 9 steps of run", 1.0), Piece("linear", "10%", 0.0)))
            ),
            "some of them are counted from the run's beginning, some are not",
        ),
        (lambda: plain(Segments(segments=(Piece("linear", "until rest", 1.0),))), 'write "rest" alone'),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error_of_one_line(make, message):
    with pytest.raises(JaxptError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
