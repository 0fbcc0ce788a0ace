"""Dynamic batch loading: the rule by hand, its floor, its clip, and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.data.reweight import reweight
from jaxpt.errors import JaxptError

# Xia et al. 2024: proportions of RedPajama that pruning starts from, and the 1.3 B model's reference losses
START = {"cc": 0.67, "github": 0.045, "book": 0.045, "stackexchange": 0.02, "wiki": 0.045, "arxiv": 0.025, "c4": 0.15}
REFERENCE = dict(zip(START, [1.9643, 0.7459, 2.1393, 1.6117, 1.7590, 1.4449, 2.1251]))


def by_hand(weights, losses, reference, rate, floor, clip):
    """The rule as the paper's algorithm has it."""
    diff = np.array(losses) - np.array(reference)
    raw = np.array(weights) * np.exp(rate * (np.maximum(diff, 0) if clip else diff))
    mixed = (1 - floor) * raw / raw.sum() + floor / len(raw)
    return mixed / mixed.sum()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 8), st.floats(0, 8)), min_size=1, max_size=17),
    st.floats(0, 2),
    st.sampled_from([0.0, 1e-4, 0.1]),
    st.booleans(),
)
def test_the_rule_is_the_papers(parts, rate, floor, clip):
    weights, losses, reference = ({str(i): p[k] for i, p in enumerate(parts)} for k in range(3))
    got = reweight(weights, losses, reference, rate=rate, floor=floor, clip=clip)
    want = by_hand(*zip(*parts), rate, floor, clip)
    np.testing.assert_allclose(list(got.values()), want, rtol=1e-9)
    assert sum(got.values()) == pytest.approx(1)


def test_losses_all_as_far_above_leave_the_weights():
    losses = {n: v + 0.4 for n, v in REFERENCE.items()}
    assert reweight(START, losses, REFERENCE, floor=0.0) == pytest.approx(START)


def test_clipping_keeps_a_source_that_is_below_its_reference():
    losses = {**REFERENCE, "github": 0.2, "book": 2.6}
    free, clipped = (reweight(START, losses, REFERENCE, clip=c) for c in (False, True))
    assert free["github"] < clipped["github"] < START["github"]
    assert free["book"] > clipped["book"] > START["book"]


def test_the_floor_keeps_every_source_in_use_and_zero_stays_zero():
    weights = {**START, "wiki": 0.0}
    losses = {**REFERENCE, "github": -30.0}
    got = reweight(weights, losses, REFERENCE)
    assert got["github"] == pytest.approx(1e-4 / 6)
    assert got["wiki"] == 0
    assert reweight(weights, losses, REFERENCE, floor=0.0)["github"] < 1e-10


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_loss_that_is_none_is_said_by_source(value):
    losses = {k: v for k, v in {**REFERENCE, "book": value}.items() if v is not None}
    with pytest.raises(JaxptError, match="reweight: source book has no loss"):
        reweight(START, losses, REFERENCE)
    with pytest.raises(JaxptError, match="reweight: source book has no reference loss"):
        reweight(START, REFERENCE, losses)


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0, 2), st.sampled_from([0.0, 1e-4]))
def test_only_differences_between_sources_count_and_more_of_them_gives_more_weight(shift, more, floor):
    losses = {n: v + 0.1 * i for i, (n, v) in enumerate(REFERENCE.items())}
    got = reweight(START, losses, REFERENCE, floor=floor)
    shifted = reweight(START, {n: v + shift for n, v in losses.items()}, REFERENCE, floor=floor)
    assert shifted == pytest.approx(got)
    further = reweight(START, {**losses, "wiki": losses["wiki"] + more}, REFERENCE, floor=floor)
    assert further["wiki"] >= got["wiki"]
    assert all(further[n] <= got[n] for n in START if n != "wiki")
    assert sum(further.values()) == pytest.approx(1)


def test_losses_at_their_references_move_weights_by_the_floor_alone():
    got = reweight(START, REFERENCE, REFERENCE, floor=1e-4)
    assert got == pytest.approx({n: (1 - 1e-4) * w + 1e-4 / 7 for n, w in START.items()})
