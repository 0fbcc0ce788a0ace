"""Successive halving: how many go on, with how many tokens, and which."""

import math

import pytest

from jaxpt.errors import JaxptError
from jaxpt.sweeps.halving import Rung, rungs, survivors


def test_each_rung_keeps_one_of_so_many_and_multiplies_the_tokens():
    assert rungs(9, 900, 3) == [Rung(100, 3), Rung(300, 1), Rung(900, 1)]
    assert rungs(8, 800, 2) == [Rung(100, 4), Rung(200, 2), Rung(400, 1), Rung(800, 1)]
    assert rungs(5, 100, 2) == [Rung(25, 3), Rung(50, 2), Rung(100, 2)]
    assert rungs(8, 800, 2, least=300) == [Rung(400, 4), Rung(800, 4)]
    assert rungs(7, 700, None) == [Rung(700, 7)]


def test_what_cannot_be_halved_is_said():
    with pytest.raises(JaxptError, match="--halving=1"):
        rungs(4, 100, 1)
    with pytest.raises(JaxptError, match="--first_rung=200"):
        rungs(4, 100, 2, 200)


def test_survivors_are_those_of_least_loss_in_their_order():
    losses = {"a": 3.0, "b": 1.0, "c": 2.0, "d": math.inf, "e": 2.0}
    assert survivors(losses, 2, list("abcde")) == ["b", "c"]  # of equal losses the earlier
    assert survivors(losses, 5, list("abcde")) == list("abce")  # what diverged does not go on
    assert survivors({}, 1, ["a"]) == []
