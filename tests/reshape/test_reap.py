"""Experts ranked by the mean over their own tokens (REAP), against sums made by hand."""

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import flatten, unflatten
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.subclone import choose, subclone_rewrite
from jaxpt.reshape.target import Target, lengths
from jaxpt.reshape.transforms.subclone import Subclone
from jaxpt.reshape.walk import layer_leaves, walk
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import batches, random_params


def by_hand(c, p, rows, l):
    """Mean over an expert's tokens of its renormalised gate times the norm of its output, of the l-th layer."""
    seen = {}
    walk(InMemory(c, p), rows, lambda a, x, y, w: {"x": a["ffn_in"], "w": w}, lambda i, s: seen.setdefault(i, s))
    x, leaves = seen[l]["x"].reshape(-1, c.embed), layer_leaves(InMemory(c, p), l)
    probs = np.asarray(jax.nn.softmax(x @ np.asarray(leaves["router"]), axis=-1))
    bias = np.asarray(leaves["router_bias"]) if c.moe.selection_bias else 0
    best = np.argsort(-(probs + bias), axis=-1, kind="stable")[:, : c.moe.experts_per_token]
    total, count = np.zeros(c.moe.experts), np.zeros(c.moe.experts)
    for t in np.flatnonzero(seen[l]["w"].reshape(-1)):
        for e in best[t]:
            hidden = np.asarray(jax.nn.silu(x[t] @ leaves["expert_gate"][e])) * (x[t] @ leaves["expert_up"][e])
            total[e] += probs[t, e] / probs[t, best[t]].sum() * np.linalg.norm(hidden @ leaves["expert_down"][e])
            count[e] += 1
    return total / np.maximum(count, 1), count


@pytest.mark.parametrize("name", ["moe", "moe_mixed"])  # weights renormalised, and softmax with a scale and a bias
def test_the_score_is_the_mean_over_an_experts_own_tokens(name):
    c, rows = VARIANTS[name], batches(VARIANTS[name], 1)
    p = random_params(c)
    scores = activation_scores(InMemory(c, p), rows, data="test")
    scores.check(c)
    want, count = by_hand(c, p, rows, 1)
    np.testing.assert_allclose(scores.get("experts_reap")[1], want, rtol=2e-4)
    assert len(set(count)) > 1, "experts are used unequally"
    assert not np.allclose(scores.get("experts")[1], want, rtol=0.1)  # divided by all tokens


def test_an_expert_without_tokens_scores_zero_and_is_cut_first():
    c = VARIANTS["moe_mixed"]
    flat = flatten(jax.tree.map(np.array, random_params(c)))
    flat["blocks/moe/router_bias"][:, 2] = -100.0
    scores = activation_scores(InMemory(c, unflatten(flat)), batches(c), data="test")
    assert np.all(scores.get("experts_reap")[1:, 2] == 0)
    kept = choose(c, lengths(c, {"experts": 3}), scores, experts="reap")
    np.testing.assert_array_equal(kept.experts[1:], [[0, 1, 3]] * 2)


def test_a_rarely_used_expert_with_large_outputs_is_kept_by_reap_alone():
    c = VARIANTS["moe"]
    flat = flatten(jax.tree.map(np.array, random_params(c)))
    rows = batches(c, 4)
    before = activation_scores(InMemory(c, unflatten(flat)), rows, data="test")
    own, share = before.get("experts_reap")[0], before.get("experts")[0] / before.get("experts_reap")[0]
    rare = int(np.argmin(share))
    flat["blocks/moe/expert_down"][0, rare] *= 1.05 * own.max() / own[rare]
    scores = activation_scores(InMemory(c, unflatten(flat)), rows, data="test")
    order = {n: list(np.argsort(-scores.get(n)[0])) for n in ("experts", "experts_reap")}
    assert order["experts_reap"][0] == rare != order["experts"][0]
    rewrite = subclone_rewrite(c, {"experts": 3}, scores, experts="reap")
    assert rewrite.entry["options"]["experts"] == "reap"


def test_it_is_refused_without_data_and_an_unknown_ranking_is_named():
    c = VARIANTS["moe"]
    with pytest.raises(JaxptError, match="experts='reap' needs calibration data"):
        Subclone(experts="reap").check(c, ReshapeSetting(Target(experts=3)))
    with pytest.raises(JaxptError, match="experts is 'reep', it must be one of contribution, reap"):
        subclone_rewrite(c, {"experts": 3}, selection="uniform", experts="reep")
