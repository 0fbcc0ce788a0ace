"""Schedules follow their closed forms, in steps and in tokens."""

import itertools
import math
from fractions import Fraction

import pytest

from jaxpt.config.choice import find, names
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.optim.course import Course
from jaxpt.optim.schedule import Piece, Schedule, learning_rate, resolve, resolve_on
from jaxpt.optim.schedules.constant import Constant
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.optim.schedules.linear import Linear
from jaxpt.optim.schedules.segments import Segments
from jaxpt.optim.schedules.wsd import Wsd


def rates(config, steps, tokens_per_step=1):
    curve = resolve(config, steps, tokens_per_step)
    assert sum(s.steps for s in curve.segments) == steps
    return [learning_rate(curve, t, 2.0) for t in range(steps)]


def test_cosine_after_linear_warmup_has_its_closed_form():
    got = rates(Cosine(warmup="10 steps", end=0.1), 110)
    for t, value in enumerate(got):
        u = (t - 10) / 100
        want = 2 * (t + 1) / 10 if t < 10 else 2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * u)))
        assert value == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ("linear", lambda u: 1 - u),
        ("sqrt", lambda u: 1 - math.sqrt(u)),
        ("cosine", lambda u: 0.5 * (1 + math.cos(math.pi * u))),
    ],
)
def test_wsd_is_flat_until_its_decay_of_each_shape(shape, form):
    got = rates(Wsd(warmup="5 steps", decay="20%", decay_shape=shape, end=0.0), 100)
    assert got[4:80] == [2.0] * 76
    assert got[80:] == pytest.approx([2 * form((t - 80) / 20) for t in range(80, 100)], rel=1e-12)
    assert got[-1] > 0  # no step is spent on a rate of 0


def test_exponential_decay_multiplies_by_the_same_factor_each_step():
    got = rates(Wsd(decay="10 steps", decay_shape="exponential", end=0.01), 30)
    assert [b / a for a, b in itertools.pairwise(got[20:])] == pytest.approx([0.01**0.1] * 9)


def test_durations_in_tokens_and_steps_give_the_same_schedule():
    a = rates(Wsd(warmup="10 steps", decay="30 steps", end=0.0), 100, 64)
    b = rates(Wsd(warmup="640 tokens", decay="1.92k tokens", end=0.0), 100, 64)
    assert a == b
    assert a != rates(Wsd(warmup="640 tokens", decay="1.92k tokens", end=0.0), 100, 32)


def test_own_segments_continue_where_the_last_one_ended():
    segments = (
        Piece("linear", "10 steps", 1.0),
        Piece("constant", "rest", 1.0),
        Piece("linear", "25%", 0.5),
    )
    got = rates(Segments(start=0.5, segments=segments), 100)
    assert got[0] == pytest.approx(2 * 0.55)
    assert got[75] == 2.0
    assert got[99] == pytest.approx(2 * (1 - 0.5 * 24 / 25))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Wsd(decay_shape="squrt"), "did you mean 'sqrt'?"),
        (Wsd(warmup="90 steps", decay="20 steps"), "take 110 steps"),
        (Wsd(decay_shape="exponential", end=0.0), "set end above 0"),
        (Segments(segments=(Piece("linear", "10 steps", 1.0),)), "take 10 steps"),
        (Cosine(warmup="soon"), "must be a duration"),
    ],
)
def test_a_schedule_that_does_not_fit_is_an_error_of_one_line(config, message):
    with pytest.raises(JaxptError) as error:
        resolve(config, 100, 1, "config.stages[0].schedule")
    assert message in str(error.value)
    assert "config.stages[0].schedule" in str(error.value)


def test_segments_that_no_longer_add_up_are_named():
    config = Segments(segments=tuple(Piece("linear", f"{n} steps", 1.0) for n in (10, 30)))
    with pytest.raises(JaxptError, match=r"schedule: the segments \(linear 10 steps, linear 30 steps\) do not add up"):
        resolve_on(config, Course([(20, 64), (10, 128)], Fraction(2560)))


YESTERDAY = {"warmup": "0 steps", "decay": "20%", "decay_shape": "linear", "end": 0.1, "start": 0.0, "segments": []}


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "segments", "wsd"])
def test_what_earlier_versions_stored_with_every_schedule_is_left_out_where_it_stood_at_its_default(name):
    assert build(Schedule, {"name": name, **YESTERDAY}) == find(Schedule, name, "name")()
    assert build(Schedule, YESTERDAY) == Cosine()


def test_an_option_of_another_schedule_is_refused_unless_it_stood_at_its_default():
    with pytest.raises(JaxptError, match=r"config\.decay is not a key; inverse_sqrt, power and wsd have it"):
        build(Schedule, {**YESTERDAY, "name": "cosine", "decay": "30%"})
    with pytest.raises(JaxptError, match=r"'cosin', which is not a schedule \(did you mean 'cosine'\?\)"):
        build(Schedule, {**YESTERDAY, "name": "cosin"})


def test_all_schedules_of_earlier_versions_are_there():
    assert {"constant", "cosine", "linear", "segments", "wsd"} <= set(names(Schedule))
    assert [(x.steps, x.shape, x.start, x.end) for x in resolve(Linear(warmup="10%", end=0.5), 10, 1).segments[1:]] == [
        (9, "linear", 1.0, 0.5)
    ]
    assert [(x.steps, x.shape, x.start, x.end) for x in resolve(Constant(warmup="10%"), 10, 1).segments[1:]] == [
        (9, "constant", 1.0, 1.0)
    ]
