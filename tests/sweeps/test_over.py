"""What `--over` reads, which combinations come of it, and how draws are distributed."""

import math

import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.sweeps.over import combinations, literal, parse_over


def test_values_are_split_at_commas_outside_of_brackets_and_quotes():
    assert parse_over("stages[0].freeze=('vocab', 'a'),(),\"x,y\"").values == ("('vocab', 'a')", "()", '"x,y"')
    assert parse_over("config.optimizer.learning_rate=1e-3,2e-3").key == "optimizer.learning_rate"
    assert parse_over("sources.a.path=s3://b,tfds:c/d:1.0.0").values == ("s3://b", "tfds:c/d:1.0.0")


def test_evenly_spaced_values_are_so_by_logarithm_or_by_number():
    assert parse_over("k=log:1e-4..1e-2:3").values == ("0.0001", "0.001", "0.01")
    assert parse_over("k=uniform:0..1:5").values == ("0.0", "0.25", "0.5", "0.75", "1.0")
    assert parse_over("k=int:1..8:3").values == ("1", "4", "8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k", "give KEY=VALUE"),
        ("k=1,,2", "a value is empty"),
        ("k=1e-3,0.001", "given twice"),
        ("k=lag:1..2", r"no law 'lag' \(did you mean 'log'"),
        ("k=log:0..2", "above 0"),
        ("k=uniform:2..1", "smaller number to a larger"),
        ("k=int:1..2.5", "whole numbers"),
        ("k=log:a..b", "no range of numbers"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, message):
    with pytest.raises(JaxptError, match=message):
        parse_over(text)


def test_a_grid_is_each_with_each_and_a_list_takes_all_ith_values():
    overs = [parse_over("a=1,2"), parse_over("b=x,y")]
    assert combinations(overs, "grid") == [{"a": a, "b": b} for a in "12" for b in "xy"]
    assert combinations(overs, "list") == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    with pytest.raises(JaxptError, match="as many values of each key; there are a 2, b 3"):
        combinations([overs[0], parse_over("b=x,y,z")], "list")
    with pytest.raises(JaxptError, match=r"give --random=N, or log:0\.1\.\.1:COUNT"):
        combinations([parse_over("a=log:0.1..1")], "grid")
    with pytest.raises(JaxptError, match="--over=a=… is given twice"):
        combinations([overs[0], overs[0]], "grid")


def test_draws_follow_from_the_seed_and_more_of_them_begin_alike():
    overs = [parse_over("a=log:1e-4..1e-1"), parse_over("b=x,y,z"), parse_over("c=int:1..3")]
    eight = combinations(overs, "random", 8, seed=5)
    assert combinations(overs, "random", 16, seed=5)[:8] == eight
    assert combinations(overs, "random", 8, seed=6) != eight


def _distance(values, law) -> float:
    """Kolmogorov–Smirnov distance of draws to the law's distribution function."""
    x = np.sort(values)
    wanted = law(x)
    above, below = np.arange(1, len(x) + 1) / len(x) - wanted, wanted - np.arange(len(x)) / len(x)
    return float(max(above.max(), below.max()))


def test_draws_are_distributed_as_their_law_says():
    n, limit = 2000, 1.95 / math.sqrt(2000)  # exceeded by chance once in a thousand times
    draws = combinations([parse_over("a=log:1e-4..1e-1"), parse_over("b=uniform:2..6")], "random", n)
    logs, numbers = ([float(d[key]) for d in draws] for key in "ab")
    assert _distance(logs, lambda x: np.log(x / 1e-4) / np.log(1e3)) < limit
    assert _distance(numbers, lambda x: (x - 2) / 4) < limit
    assert _distance(logs, lambda x: (x - 1e-4) / (1e-1 - 1e-4)) > 5 * limit  # the proof can fail: not uniform
    assert abs(float(np.corrcoef(np.log(logs), numbers)[0, 1])) < 0.1  # keys are drawn apart
    whole = [int(d["c"]) for d in combinations([parse_over("c=int:1..3")], "random", 3000)]
    assert set(whole) == {1, 2, 3}
    assert min(whole.count(i) for i in (1, 2, 3)) > 850


def test_numbers_are_numbers_and_other_values_texts():
    assert [literal(t) for t in ("1e-3", "8", "True", "None", "500 steps")] == [0.001, 8, True, None, "500 steps"]
