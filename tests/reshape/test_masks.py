"""Masked models compute what the cut ones do, for every axis alone and for all jointly, in every architecture."""

import functools

import jax
import numpy as np
import pytest

from jaxpt.models import flatten, forward, unflatten
from jaxpt.models.masks import gate_axes, with_mask
from jaxpt.models.size import param_count
from jaxpt.reshape.apply import apply
from jaxpt.reshape.masks import final_masks, fold, kept_positions, shear
from jaxpt.reshape.target import lengths, lengths_of
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import TOKENS, close, logits, random_params

TARGET = {
    "embed": 17,
    "layers": 2,
    "kv_heads": 1,
    "heads": 4,
    "mlp": 23,
    "experts": 3,
    "expert_mlp": 7,
    "shared_mlp": 9,
}
ALONE = ("gemma2", "olmo2", "moe_mixed")  # between them: GQA, windows, post-norms, a norm across heads, tied, mixtures
CASES = [(name, axis) for name in ALONE for axis in gate_axes(VARIANTS[name])] + [(name, "all") for name in VARIANTS]


@functools.lru_cache(maxsize=64)
def _compiled(config):
    return jax.jit(lambda p: forward(config, p, TOKENS))


def masked_logits(config, params, masks):
    """Logits of TOKENS under a mask; axes without one have gates of 1, so that all share one compilation."""
    ones = {axis: np.ones(shape, np.float32) for axis, shape in gate_axes(config).items()}
    return np.asarray(_compiled(config)(with_mask(params, {**ones, **masks})))


def target_of(config, axes):
    """The lengths that are wanted, of these axes."""
    asked = {axis: TARGET[axis] for axis in axes}
    if "heads" in axes and "kv_heads" in axes:
        asked["heads"] = 2  # one group of two
    return lengths(config, asked)


def random_masks(config, axes, values=False, seed=0):
    """Masks of these axes of random choice with exact counts; values between 1/2 and 3/2 where asked for."""
    rng = np.random.default_rng(seed)
    shapes = {axis: gate_axes(config)[axis] for axis in axes}
    ranking = {axis: rng.normal(size=shape) for axis, shape in shapes.items()}
    kept = {axis: rng.uniform(0.5, 1.5, shape) for axis, shape in shapes.items()} if values else None
    return final_masks(config, target_of(config, axes), ranking, kept)


def cut_logits(config, params, masks):
    """Logits of the model that is cut by masks."""
    for rewrite in shear(config, masks):
        params, config = apply(rewrite, params), rewrite.target
    return logits(config, params)


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_the_masked_model_computes_what_the_cut_one_does(name, axis):
    c = VARIANTS[name]
    p = random_params(c)
    axes = list(gate_axes(c)) if axis == "all" else [axis]
    masks = random_masks(c, axes)
    masked = masked_logits(c, p, masks)
    close(masked, cut_logits(c, p, masks))
    assert np.abs(masked - logits(c, p)).max() > 1e-2, "the mask does something"
    sizes, want = lengths_of(shear(c, masks)[-1].target), target_of(c, axes)
    assert sizes == want


@pytest.mark.parametrize("name", ["llama", "tied", "gemma2", "olmo2", "o_bias", "moe", "moe_mixed"])
def test_gates_that_are_not_one_are_folded_into_the_weights_once(name):
    c = VARIANTS[name]
    p = random_params(c)
    masks = random_masks(c, list(gate_axes(c)), values=True)
    masked = masked_logits(c, p, masks)
    close(masked, cut_logits(c, p, masks), 1e-4)
    binary = {axis: (m > 0).astype(np.float32) for axis, m in masks.items()}
    assert np.abs(masked - masked_logits(c, p, binary)).max() > 1e-2
    folded = apply(fold(c, masks), p)
    close(masked_logits(c, folded, binary), masked, 1e-4)
    twice = apply(fold(c, masks), folded)  # the published code's error: one mask, applied twice
    assert np.abs(masked_logits(c, twice, binary) - masked).max() > 1e-2


@pytest.mark.parametrize("name", list(VARIANTS))
def test_gates_of_one_change_nothing(name):
    c = VARIANTS[name]
    p = random_params(c)
    ones = {axis: np.ones(shape, np.float32) for axis, shape in gate_axes(c).items()}
    close(masked_logits(c, p, ones), logits(c, p), 1e-6)
    assert shear(c, ones)[-1].target == c


def test_a_norm_that_counts_removed_positions_would_be_noticed(monkeypatch):  # the proof above can fail
    c = VARIANTS["olmo2"]
    p = random_params(c)
    for axes in (["embed"], ["heads"], ["kv_heads"]):
        masks = random_masks(c, axes)
        with monkeypatch.context() as m:
            m.setattr("jaxpt.models.masks._width", lambda *args: None)
            m.setattr("jaxpt.models.decoder.counted", lambda gates: None)
            wrong = np.asarray(jax.jit(lambda p: forward(c, p, TOKENS))(with_mask(p, masks)))
        assert np.abs(wrong - cut_logits(c, p, masks)).max() > 1e-2


def test_a_removed_expert_with_a_large_selection_bias_is_not_chosen():
    c = VARIANTS["moe_mixed"]
    flat = flatten(jax.tree.map(np.array, random_params(c)))
    flat["blocks/moe/router_bias"][:] = [0, 0, 5.0, 0]
    masks = {"experts": np.array([[1, 1, 0, 1]] * 2, np.float32)}
    close(masked_logits(c, unflatten(flat), masks), cut_logits(c, unflatten(flat), masks))


def test_without_any_expert_left_the_mixture_adds_only_its_shared_experts():
    c = VARIANTS["moe_mixed"]
    p = random_params(c)
    none = masked_logits(c, p, {"experts": np.zeros((2, 4), np.float32)})
    assert np.isfinite(none).all()
    close(none, masked_logits(c, p, {"expert_mlp": np.zeros((2, 4, 12), np.float32)}))


def test_gradients_of_gates_are_those_of_the_loss_by_finite_differences():
    c = VARIANTS["llama"]
    p = random_params(c)
    rng = np.random.default_rng(1)
    masks = {axis: rng.uniform(0.4, 1.2, shape).astype(np.float32) for axis, shape in gate_axes(c).items()}

    @jax.jit
    def loss(m):
        return (forward(c, with_mask(p, m), TOKENS)[..., :7] ** 2).mean()

    grads = jax.jit(jax.grad(loss))(masks)
    for axis, gate in masks.items():
        step = np.sign(grads[axis])  # so that the sum has no terms that cancel
        up, down = ({**masks, axis: gate + s * 1e-3 * step} for s in (1, -1))
        np.testing.assert_allclose(np.sum(grads[axis] * step), (loss(up) - loss(down)) / 2e-3, rtol=2e-2, err_msg=axis)


def test_ties_keep_the_lower_positions_and_each_kv_head_keeps_as_many_query_heads():
    c = VARIANTS["llama"]
    want = lengths(c, {"heads": 4, "mlp": 3})
    masks = final_masks(c, want, {"heads": np.zeros((3, 6)), "mlp": np.zeros((3, 40))})
    np.testing.assert_array_equal(masks["heads"], [[1, 1, 0, 1, 1, 0]] * 3)
    kept = kept_positions(c, masks)
    np.testing.assert_array_equal(kept.heads, [[0, 1, 3, 4]] * 3)
    np.testing.assert_array_equal(kept.mlp, [[0, 1, 2]] * 3)
    assert param_count(shear(c, masks)[-1].target) < param_count(c)
