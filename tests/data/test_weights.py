"""Mixtures as people write them: groups, shares by size, weights in tokens; each mistake named."""

import pytest

from jaxpt.data.weights import flat_weights, row_weights
from jaxpt.errors import JaxptError

GROUPED = {"math": {"weight": 0.4, "sources": {"synthetic": 0.7, "web": 0.3}}, "code": 0.6}


def test_groups_are_resolved_to_sources():
    assert flat_weights(GROUPED) == pytest.approx({"synthetic": 0.28, "web": 0.12, "code": 0.6})
    nested = {"all": {"weight": 2, "sources": GROUPED}, "rest": 1}
    assert flat_weights(nested) == pytest.approx({"synthetic": 0.56, "web": 0.24, "code": 1.2, "rest": 1})


def test_weights_inside_a_group_need_not_sum_to_one():
    assert flat_weights({"g": {"weight": 0.5, "sources": {"a": 1, "b": 3}}, "c": 0.5})["b"] == pytest.approx(0.375)


def test_sizes_share_what_the_numbers_leave():
    sizes = {"a": 100, "b": 300, "c": 7}
    assert flat_weights(dict.fromkeys("ab", "size"), sizes) == pytest.approx({"a": 0.25, "b": 0.75})
    got = flat_weights({"a": "size", "b": "size", "c": 0.2}, sizes)
    assert got == pytest.approx({"a": 0.2, "b": 0.6, "c": 0.2})
    group = {"g": {"weight": 0.5, "sources": {"a": "size", "b": "size"}}, "c": 0.5}
    assert flat_weights(group, sizes) == pytest.approx({"a": 0.125, "b": 0.375, "c": 0.5})


def test_weights_in_tokens_are_divided_by_the_fill():
    assert row_weights({"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.5}) == {"a": 0.5, "b": 1.0}


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"g": {"weight": 1, "sources": {"code": 1}}, "code": 1}, "m: source 'code' is given twice"),
        ({"g": {"code": 1}}, r"m\.g is a group: give it `weight`"),
        ({"g": {"weight": 1, "sources": {"a": 0}}}, r"m\.g: the weights inside the group sum to 0"),
        ({"g": {"weight": -1, "sources": {"a": 1}}}, r"m\.g\.weight is -1"),
        ({"g": {"weight": 1, "sources": {"a": float("nan")}}}, r"m\.g\.sources\.a is nan"),
        ({"a": "big"}, r"m\.a is 'big': a weight must be at least 0, 'size', or a group"),
        ({"a": "size", "b": 1.0}, "m: the numbers sum to 1, nothing is left of 1 to share by size"),
    ],
)
def test_a_mixture_that_is_none_is_said_where(mixture, message):
    with pytest.raises(JaxptError, match=message):
        flat_weights(mixture, None, "m")
