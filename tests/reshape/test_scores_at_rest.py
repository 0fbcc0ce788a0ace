"""Stored scores come back as they were, and damage to the file is noticed."""

import json

import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.files import digests
from jaxpt.reshape.scores import Scores
from tests.files.flips import assert_never_silent, outcomes

META = {"method": "activation", "tokens": 4096, "data": None, "model": "0123456789abcdef"}


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    values = {"embed": rng.random(6).astype(np.float32), "mlp": rng.random((2, 5)).astype(np.float32)}
    Scores(values, META).save(tmp_path / "s.npz")
    return tmp_path / "s.npz"


def everything(path):
    scores = Scores.load(path)
    return scores.meta, {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in scores.values.items()}


def test_damage_is_noticed_or_harmless(stored):
    assert everything(stored)[0] == META
    assert_never_silent(outcomes(stored, lambda: everything(stored), 1))


def test_scores_from_before_the_digest_are_read(stored, tmp_path, monkeypatch, capsys):
    values = Scores.load(stored).values
    np.savez(tmp_path / "old.npz", meta=np.array(json.dumps(META)), **values)
    monkeypatch.setattr(digests, "_reported", False)
    assert everything(tmp_path / "old.npz") == everything(stored)
    assert "carry no digests" in capsys.readouterr().err


def test_an_array_that_is_no_score_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", meta=np.array("{}"), embee=np.zeros(3, np.float32))
    with pytest.raises(JaxptError, match=r"s\.npz holds 'embee', which is not a score"):
        Scores.load(tmp_path / "s.npz")
