"""Durations are exact: what a person writes in decimals is what is counted."""

from fractions import Fraction

import pytest

from jaxpt.config.duration import Duration, parse
from jaxpt.errors import JaxptError
from jaxpt.optim.course import Course
from jaxpt.optim.schedule import resolve_on
from jaxpt.optim.schedules.wsd import Wsd


@pytest.mark.parametrize(
    ("text", "tokens_per_step", "whole", "steps"),
    [
        ("32.2%", 1, 500, 161),
        ("0.7%", 1, 1000, 7),
        ("2.007M tokens", 1000, None, 2007),
        ("1.1B tokens", 1_100_000, None, 1000),
        ("4.35k tokens", 1, None, 4350),
        ("1,500 steps", 1, None, 1500),
        ("1,234,567.5k tokens", 100, None, 12_345_675),
        ("1_000_000 tokens", 1000, None, 1000),
        ("16.1k steps", 1, None, 16_100),
        ("9007199254740993 tokens", 1, None, 9007199254740993),  # 2**53 + 1
    ],
)
def test_decimals_are_counted_as_they_are_written(text, tokens_per_step, whole, steps):
    assert parse(text, "stage", parts=True).steps(tokens_per_step, whole) == steps


def test_every_percentage_of_a_thousandth_is_exact():
    wrong = [n for n in range(1, 1001) if parse(f"{n // 10}.{n % 10}%", "stage", parts=True).steps(1, 1000) != n]
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["1,5B tokens", "1,50 steps", "12,3456 tokens", ",500 steps", "1,000,00 steps", "1,2%"]
)
def test_a_comma_stands_before_three_digits_only(text):
    with pytest.raises(JaxptError, match=r"stage is '.*decimals follow a point, a comma only sets off three digits"):
        parse(text, "stage", parts=True)


def test_an_interval_in_tokens_is_due_at_its_multiples():
    every = Duration(Fraction("0.3"), "tokens")
    due = [n for n in range(1, 10) if every.is_due(0, 0, n - 1, n)]
    assert due == list(range(1, 10))
    third = parse("3.3k tokens", "every")
    assert [n for n in range(1, 12) if third.is_due(0, 0, 1100 * (n - 1), 1100 * n)] == [3, 6, 9]


def test_edges_of_a_stage_that_was_resized_are_exact():
    pieces = Wsd(warmup="32.2%", decay="10%")
    curve = resolve_on(pieces, Course([(250, 500), (375, 1000)], Fraction(500_000)))
    assert curve.segments[0].steps == 286  # 161,000 tokens: 250 steps of 500, 36 of 1,000
