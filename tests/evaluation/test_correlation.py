"""Spearman's rank correlation, beside scipy's."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxpt.evaluation.correlation import rank_correlation, ranks


@pytest.mark.parametrize("n", [2, 3, 8, 40])
@pytest.mark.parametrize("values", [3, 1000], ids=["many equal values", "few equal values"])
def test_it_is_that_of_scipy(n, values):
    rng = np.random.default_rng(n + values)
    for _ in range(20):
        x, y = rng.integers(0, values, n) / 7, rng.integers(0, values, n) / 7
        if len(set(x)) > 1 and len(set(y)) > 1:
            assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
            np.testing.assert_array_equal(ranks(x), stats.rankdata(x))


def test_it_sees_order_alone():
    x = [1.0, 2.0, 3.0, 4.0]
    assert rank_correlation(x, np.exp(x)) == 1.0
    assert rank_correlation(x, [4, 3, 2, -math.inf]) == -1.0


def test_values_in_place_of_ranks_would_be_noticed():
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 400.0]
    assert abs(np.corrcoef(x, y)[0, 1] - rank_correlation(x, y)) > 0.1


def test_where_there_is_none_it_is_nan():
    for x, y in (([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([1, math.nan, 3], [1, 2, 3])):
        assert math.isnan(rank_correlation(x, y))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="x has 2 values, y has 3"):
        rank_correlation([1, 2], [1, 2, 3])
