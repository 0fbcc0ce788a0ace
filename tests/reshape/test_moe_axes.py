"""The algebra over mixtures of experts: experts and their widths are axes like others, growth along embed included."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import flatten, unflatten
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import duplicate, mask, pad, permute, select
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.compensate import gather_compensation
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.stream import InMemory, Reshaped, gather
from jaxpt.reshape.subclone import random_init, subclone_rewrite
from jaxpt.reshape.walk import layer_leaves, walk
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import batches, close, logits, random_params, reshaped

NAMES = ["moe", "moe_mixed"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", ["experts", "expert_mlp"])
def test_reordering_experts_or_their_neurons_keeps_the_function(name, axis):
    c = VARIANTS[name]
    p = random_params(c)
    n = c.moe.experts if axis == "experts" else c.moe.mlp
    order = np.stack([np.random.default_rng(l).permutation(n) for l in range(3)])
    close(reshaped(permute(c, axis, order), p), logits(c, p))


def test_leaving_out_a_used_expert_changes_the_function():  # the proof above can fail
    c = VARIANTS["moe"]
    p = random_params(c)
    rewrite = select(c, "experts", [0, 1, 2, 3])
    assert rewrite.target.moe.experts == 4
    assert apply(rewrite, p)["blocks"]["moe"]["router"].shape == (3, 24, 4)
    assert np.abs(reshaped(rewrite, p) - logits(c, p)).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "axis"), [("moe", "expert_mlp"), ("moe_mixed", "expert_mlp"), ("moe_mixed", "shared_mlp")]
)
def test_masked_neurons_of_experts_compute_what_cut_ones_do(name, axis):
    c = VARIANTS[name]
    p = random_params(c)
    size = c.moe.shared_mlp if axis == "shared_mlp" else c.moe.mlp
    keep = np.stack([np.sort(np.random.default_rng(l).permutation(size)[:5]) for l in range(3)])
    close(reshaped(mask(c, axis, keep), p), reshaped(select(c, axis, keep), p))
    assert not np.allclose(reshaped(mask(c, axis, keep), p), logits(c, p), atol=1e-2)


def test_whole_experts_and_each_experts_own_neurons_cannot_be_masked_and_the_refusal_says_so():
    with pytest.raises(JaxptError, match="experts cannot be masked; embed"):
        mask(WIDE, "experts", [0, 1])
    with pytest.raises(JaxptError, match="expert_mlp expert by expert cannot be masked"):
        mask(WIDE, "expert_mlp", np.zeros((3, 6, 4), int))


@pytest.mark.parametrize("name", NAMES)
def test_growth_along_embed_keeps_the_function_of_mixtures(name):
    c = VARIANTS[name]
    p = random_params(c)
    close(reshaped(pad(c, "embed", 31), p), logits(c, p), 1e-4)
    close(reshaped(duplicate(c, "embed", np.arange(48) % 24), p), logits(c, p), 1e-4)


WIDE = VARIANTS["moe_mixed"].replace(
    moe=dataclasses.replace(VARIANTS["moe_mixed"].moe, experts=6, weights="renormalised"),
)


def partly_used():
    """A mixture of which 4 of 6 experts are ever chosen, with 5 of 12 neurons that count in each and 7 of 20 shared."""
    rng = np.random.default_rng(5)
    p = flatten(writable(random_params(WIDE)))
    used = np.stack([np.sort(rng.permutation(6)[:4]) for _ in range(2)])
    neurons = np.stack([[np.sort(rng.permutation(12)[:5]) for _ in range(6)] for _ in range(2)])
    shared = np.stack([np.sort(rng.permutation(20)[:7]) for _ in range(2)])
    for l in range(2):
        p["blocks/moe/router_bias"][l] = np.where(np.isin(np.arange(6), used[l]), 0.0, -100.0)
        for e in range(6):
            p["blocks/moe/expert_up"][l, e][:, ~np.isin(np.arange(12), neurons[l, e])] = 0
        p["blocks/moe/shared_up"][l][:, ~np.isin(np.arange(20), shared[l])] = 0
    return unflatten(p), used, neurons, shared


def writable(tree):
    return jax.tree.map(np.array, tree)


def test_scores_find_the_experts_and_the_neurons_in_each_that_are_used_and_the_cut_keeps_the_function():
    p, used, neurons, shared = partly_used()
    scores = activation_scores(InMemory(WIDE, p), batches(WIDE, 16), data="test")
    scores.check(WIDE)
    for l in range(2):  # the text is long enough for each usable expert to be chosen
        assert set(np.flatnonzero(scores.get("experts")[l + 1] > 0.01)) == set(used[l])
    free = weight_scores(InMemory(WIDE, p))
    free.check(WIDE)
    rewrite = subclone_rewrite(WIDE, {"experts": 4, "expert_mlp": 5, "shared_mlp": 7}, scores)
    assert (rewrite.target.moe.experts, rewrite.target.moe.mlp, rewrite.target.moe.shared_mlp) == (4, 5, 7)
    small = apply(rewrite, p)["blocks"]["moe"]
    for l in range(2):
        for i, e in enumerate(used[l]):
            want = p["blocks"]["moe"]["expert_gate"][l, e][:, neurons[l, e]]
            np.testing.assert_array_equal(small["expert_gate"][l, i], want)
            assert set(free.get("expert_mlp")[l + 1, e].nonzero()[0]) == set(neurons[l, e])
        np.testing.assert_array_equal(small["shared_down"][l], p["blocks"]["moe"]["shared_down"][l][shared[l]])
    b = batches(WIDE)[:1]
    before, after = (walk(InMemory(c, q), b)[0] for c, q in ((WIDE, p), (rewrite.target, apply(rewrite, p))))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * float(abs(before).max()))
    close(reshaped(rewrite, p), logits(WIDE, p), 1e-4)
    jax.tree.map(np.testing.assert_array_equal, gather(Reshaped(InMemory(WIDE, p), rewrite)), apply(rewrite, p))


def test_cutting_a_used_expert_or_one_index_set_for_all_experts_changes_the_function():  # the proof above can fail
    p, _, neurons, _ = partly_used()
    same = np.broadcast_to(neurons[0, 0], (3, 5))
    assert np.abs(reshaped(select(WIDE, "expert_mlp", same), p) - logits(WIDE, p)).max() > 1e-2
    scores = activation_scores(InMemory(WIDE, p), batches(WIDE), data="test")
    rewrite = subclone_rewrite(WIDE, {"experts": 3}, scores)
    assert np.abs(reshaped(rewrite, p) - logits(WIDE, p)).max() > 1e-2


def test_an_experts_score_is_its_weighted_output_summed_by_hand():
    c = VARIANTS["moe"]
    p = random_params(c)
    seen = {}

    def keep(taps, x, y, weight):
        return {k: taps[k] for k in ("ffn_in", "router_shares", "expert_out", "expert_hidden")} | {"weight": weight}

    walk(InMemory(c, p), batches(c, 1), keep, lambda l, s: seen.setdefault(l, s))
    s, leaves = seen[0], layer_leaves(InMemory(c, p), 0)
    x = s["ffn_in"].reshape(-1, 24)
    hidden = jax.nn.silu(np.einsum("td,edf->etf", x, leaves["expert_gate"]))
    hidden = np.asarray(hidden) * np.einsum("td,edf->etf", x, leaves["expert_up"])
    probs = np.asarray(jax.nn.softmax(x @ np.asarray(leaves["router"]), axis=-1))
    best = np.argsort(-probs, axis=-1, kind="stable")[:, :2]
    share = np.zeros_like(probs)
    np.put_along_axis(share, best, np.take_along_axis(probs, best, 1), 1)
    share = share / share.sum(-1, keepdims=True) * s["weight"].reshape(-1, 1)
    out = np.linalg.norm(np.einsum("etf,efd->etd", hidden, leaves["expert_down"]), axis=-1)
    np.testing.assert_allclose(s["expert_out"], (share.T * out).sum(1), rtol=1e-4)
    np.testing.assert_allclose(s["expert_hidden"], (share.T[..., None] * np.abs(hidden)).sum(1), rtol=1e-4)


def test_random_mixtures_and_refusals_name_the_length():
    rewrite = random_init(WIDE, {"experts": 4, "expert_mlp": 6})
    assert apply(rewrite, random_params(WIDE))["blocks"]["moe"]["expert_up"].shape == (2, 4, 24, 6)
    for target, said in (({"experts": 1}, "fewer than the 2"), ({"expert_mlp": 13}, "larger than the source's 12")):
        with pytest.raises(JaxptError, match=said):
            subclone_rewrite(WIDE, target, selection="uniform")
    with pytest.raises(JaxptError, match="for dense layers only"):
        gather_compensation(InMemory(WIDE, random_params(WIDE)), batches(WIDE), {"mlp": np.zeros((3, 4), int)})
