"""Noise and spread of a score over a run's checkpoints."""

import math
import statistics

import pytest

from jaxpt.evaluation.noise import noise_of


def test_noise_and_spread_by_hand():
    values = [0.1, 0.5, 0.4, 0.6, 0.5, 0.4, 0.6]
    got = noise_of(values)
    late = values[-5:]
    assert got.noise == pytest.approx(statistics.stdev(late) / statistics.mean(late))
    assert got.signal == pytest.approx(0.5 / 0.5)
    assert got.ratio == pytest.approx(got.signal / got.noise)
    assert (got.last, got.points) == (5, 7)


def test_all_checkpoints_in_place_of_the_last_would_be_noticed():
    rising = [0.0, 0.2, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert noise_of(rising).noise == 0
    assert noise_of(rising).ratio == math.inf
    assert noise_of(rising, last=9).noise > 0.3


def test_of_too_few_values_nothing_is_said():
    assert noise_of([0.1, 0.2]) is None
    assert noise_of([0.1, math.nan, 0.2]) is None
    assert noise_of([0.0, 0.0, 0.0]) is None
    assert noise_of([0.1, 0.2, 0.3]).last == 3
