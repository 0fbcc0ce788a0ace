"""The quota method keeps every source strictly within one row of its share; simpler rules do not."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.data.quota import ONE, Quota, integer_weights
from jaxpt.errors import JaxptError

WEIGHTS = st.lists(
    st.one_of(st.floats(1e-6, 1.0), st.sampled_from([0.03, 1 / 3, 1.0, 0.5, 1e-4])), min_size=1, max_size=17
)


def worst(sequence, weights):
    """Largest |count - w n| over all prefixes, in rows, exactly."""
    counts, most = [0] * len(weights), 0
    for n, i in enumerate(sequence, 1):
        counts[i] += 1
        most = max(most, max(abs(c * ONE - w * n) for c, w in zip(counts, weights)))
    return Fraction(most, ONE)


def largest_remainder(weights, rows):
    """The obvious rule: the next row goes to the source that is furthest behind its share."""
    counts, out = [0] * len(weights), []
    for n in range(1, rows + 1):
        i = max(range(len(weights)), key=lambda i: (weights[i] * n - counts[i] * ONE, -i))
        counts[i] += 1
        out.append(i)
    return out


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.integers(1, 400))
def test_every_source_stays_strictly_within_one_row_of_its_share(weights, rows):
    whole = list(integer_weights({str(i): w for i, w in enumerate(weights)}).values())
    assert worst(Quota(whole).take(rows), whole) < 1


def test_largest_remainder_fails_the_same_property():
    rng = np.random.default_rng(0)
    found = Fraction(0)
    for _ in range(400):
        k = rng.integers(5, 18)
        weights = integer_weights({str(i): float(w) for i, w in enumerate(rng.dirichlet(np.full(k, 0.4)) + 1e-6)})
        found = max(found, worst(largest_remainder(list(weights.values()), 300), list(weights.values())))
        if found >= 1:
            return
    pytest.fail(f"largest remainder stayed within {float(found):.3f}: the property has no power")


@settings(max_examples=50, deadline=None)
@given(WEIGHTS, st.integers(0, 300), st.integers(0, 100))
def test_a_restart_from_the_counts_continues_the_sequence(weights, before, after):
    whole = list(integer_weights({str(i): w for i, w in enumerate(weights)}).values())
    quota = Quota(whole)
    quota.take(before)
    again = Quota(whole, quota.counts)
    np.testing.assert_array_equal(quota.take(after), again.take(after))


@given(WEIGHTS)
def test_integer_weights_sum_to_the_whole_and_are_near_the_given_ones(weights):
    whole = integer_weights({str(i): w for i, w in enumerate(weights)})
    total = sum(Fraction(w) for w in weights)
    assert sum(whole.values()) == ONE
    for w, got in zip(weights, whole.values()):
        assert abs(Fraction(got, ONE) - Fraction(w) / total) < Fraction(1, ONE)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "x", True])
def test_a_weight_that_is_none_is_named(weight):
    with pytest.raises(JaxptError, match=r"stages\[0\]\.mixture\.b is"):
        integer_weights({"a": 1.0, "b": weight}, "stages[0].mixture")


def test_weights_that_sum_to_zero_are_refused():
    with pytest.raises(JaxptError, match="sum to zero"):
        integer_weights({"a": 0.0, "b": 0})


def test_counts_that_no_sequence_reaches_are_refused():
    with pytest.raises(JaxptError, match="is not a state"):
        Quota([ONE // 2, ONE // 2], [5, 1])
