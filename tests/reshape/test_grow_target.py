"""Growth to any larger shape keeps the function: every axis, every norm, tied and untied, float32 and bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import Compute, flatten, forward
from jaxpt.models.mup import BaseShape, MupConfig, parameterised, scaling
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import AxisMap, duplicate, rewrite_axes, with_groups
from jaxpt.reshape.grow_heads import pad_head_dim
from jaxpt.reshape.grow_target import deepen, widen
from jaxpt.reshape.subclone import subclone_rewrite
from tests.models.tiny import VARIANTS, config
from tests.reshape.proofs import TOKENS, close, logits, random_params

TARGETS = {
    "embed": {"embed": 31},
    "mlp": {"mlp": 57},
    "heads": {"heads": 10},
    "groups": {"kv_heads": 3},
    "split_kv": {"heads": 6, "kv_heads": 6},
    "split_kv_and_heads": {"heads": 12, "kv_heads": 6},
    "head_dim": {"head_dim": 16},
    "head_dim_uneven": {"head_dim": 14},
    "all": {"embed": 40, "mlp": 64, "heads": 12, "kv_heads": 3, "head_dim": 10},
}


def grown(rewrites, params):
    for rewrite in rewrites:
        params = apply(rewrite, params)
    return rewrites[-1].target, params


CASES = [("llama", t) for t in TARGETS] + [(n, "all") for n in ("tied", "qwen2", "gemma2", "local_rope")]
CASES += [("qwen3", t) for t in ("all", "split_kv_and_heads")] + [("olmo2", t) for t in ("embed", "head_dim_uneven")]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_zeros_with_drawn_readers_keep_the_function(name, target):
    c = VARIANTS[name]
    p = random_params(c)
    rewrites = widen(c, TARGETS[target])
    assert all(rewrite.entry["exact"] and rewrite.entry["why"] for rewrite in rewrites)
    config, params = grown(rewrites, p)
    for key, value in TARGETS[target].items():
        assert getattr(config, key) == value
    close(logits(config, params), logits(c, p), 1e-4)


def test_mup_s_multipliers_stay_what_they_are_so_that_growth_keeps_the_function():
    mup = MupConfig(BaseShape(embed=12, mlp=20, heads=2, layers=1), attention_alpha=0.5)
    c = parameterised(VARIANTS["llama"], scaling(mup, VARIANTS["llama"]))
    scales = [getattr(c, name) for name in ("embed_scale", "logit_scale", "residual_scale")]
    assert scales[1:] == [12 / c.embed, 1 / len(c.layers)]
    p = random_params(c)
    config, params = grown(widen(c, TARGETS["all"]), p)
    assert [getattr(config, name) for name in ("embed_scale", "logit_scale", "residual_scale")] == scales
    close(logits(config, params), logits(c, p), 1e-4)
    assert scaling(mup, config).widths["embed"] == 40 / 12  # what learning rates follow
    followed = config.replace(logit_scale=12 / 40)  # the proof above can fail
    assert not np.allclose(logits(followed, params), logits(c, p), rtol=1e-2)


@pytest.mark.parametrize("target", ["heads", "groups"])
def test_a_norm_across_heads_is_not_padded(target):
    with pytest.raises(JaxptError, match="would change the norm across heads; duplicate them"):
        widen(VARIANTS["olmo2"], TARGETS[target])


COPIES = [("llama", "heads"), ("tied", "groups"), ("qwen3", "heads"), ("gemma2", "embed"), ("olmo2", "groups")]


@pytest.mark.parametrize("how", ["fpi", "duplicate"])
@pytest.mark.parametrize(("name", "target"), COPIES)
def test_copies_with_noise_that_cancels_keep_the_function(name, target, how):
    c = VARIANTS[name]
    p = random_params(c)
    config, params = grown(widen(c, TARGETS[target], how, noise=0.1, seed=3), p)
    close(logits(config, params), logits(c, p), 1e-4)
    plain = grown(widen(c, TARGETS[target], how, seed=3), p)[1]
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(params)))


@pytest.mark.parametrize("name", ["tied", "olmo2"])
def test_even_copies_are_whole_repeats_and_keep_the_function(name):
    c = VARIANTS[name]
    p = random_params(c)
    config, params = grown(widen(c, {"embed": 48, "mlp": 80, "heads": 12}, "duplicate"), p)
    np.testing.assert_array_equal(params["blocks"]["dense"]["up"][..., 40:], params["blocks"]["dense"]["up"][..., :40])
    close(logits(config, params), logits(c, p), 1e-4)


def test_whole_groups_under_a_norm_across_heads_are_copied_evenly_or_not():
    c = VARIANTS["olmo2"]
    p = random_params(c)
    for index in ([0, 1, 0, 1], [0, 1, 1], [0, 1, 1, 1, 0]):
        rewrite = duplicate(c, "kv_heads", index)
        close(logits(rewrite.target, apply(rewrite, p)), logits(c, p), 1e-4)
    close(*(logits(x, y) for x, y in (grown([duplicate(c, "heads", np.repeat(np.arange(6), 2))], p), (c, p))), 1e-4)
    with pytest.raises(JaxptError, match="only an even number of copies"):
        duplicate(c, "heads", [0, 1, 2, 2, 3, 4, 5, 5])


def test_groups_copied_unevenly_by_counts_alone_change_a_norm_across_heads():  # the proof above can fail
    c = VARIANTS["olmo2"]
    p = random_params(c)
    index = np.broadcast_to([0, 1, 1], (3, 3))
    by_count = 1 / np.broadcast_to([1, 2, 2], (3, 3))
    maps = {"kv_heads": AxisMap(index, by_count), "heads": AxisMap(with_groups(c, index), np.repeat(by_count, 3, -1))}
    rewrite = rewrite_axes(c, maps)
    assert np.abs(logits(rewrite.target, apply(rewrite, p)) - logits(c, p)).max() > 1e-2


@pytest.mark.parametrize("name", ["moe", "moe_mixed"])
def test_mixtures_grow_inside_their_experts(name):
    c = VARIANTS[name]
    p = random_params(c)
    target = {"embed": 30, "expert_mlp": 21} | ({"shared_mlp": 33} if c.moe.shared_mlp else {})
    for how in ("pad", "fpi"):
        config, params = grown(widen(c, target, how), p)
        assert config.moe.mlp == 21
        close(logits(config, params), logits(c, p), 1e-4)


@pytest.mark.parametrize("target", ["embed", "head_dim", "all"])
def test_bfloat16_models_grow_within_their_rounding_and_keep_their_dtype(target):
    c = VARIANTS["llama"]
    p = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), random_params(c))
    config, params = grown(widen(c, TARGETS[target]), p)
    kept = {path for path, leaf in flatten(params).items() if leaf.dtype == jnp.bfloat16}
    assert kept == set(flatten(params))
    got, want = (np.asarray(forward(x, jax.tree.map(jnp.float32, y), TOKENS)) for x, y in ((config, params), (c, p)))
    np.testing.assert_allclose(got, want, atol=2e-2 * np.abs(want).max())
    low = np.asarray(forward(config, params, TOKENS, compute=Compute(dtype="bfloat16")))
    np.testing.assert_allclose(low, want, atol=8e-2 * np.abs(want).max())


@pytest.mark.parametrize("name", ["llama", "qwen3", "local_rope"])
def test_larger_heads_are_cut_back_to_the_old_ones(name):
    c = VARIANTS[name]
    p = random_params(c)
    rewrite = pad_head_dim(c, 16)
    assert rewrite.target.rope.inv_freq is None  # twice the head: the old frequencies are every other one of the new
    back = subclone_rewrite(rewrite.target, {"head_dim": 8}, selection="uniform")
    assert back.target.rope == c.rope
    small = flatten(apply(back, apply(rewrite, p)))
    for path in ("blocks/dense/v", "blocks/dense/o"):
        np.testing.assert_array_equal(small[path], flatten(p)[path])
    ratio = 2**0.25 if c.qk_norm == "none" else 1.0
    np.testing.assert_allclose(small["blocks/dense/q"], ratio * flatten(p)["blocks/dense/q"], rtol=1e-6)


def test_larger_heads_without_the_softmax_correction_change_the_function():  # the proof above can fail
    rewrite = pad_head_dim(VARIANTS["llama"], 16)
    p = random_params(VARIANTS["llama"])
    wrong = apply(rewrite, p)
    wrong["blocks"]["dense"]["q"] = wrong["blocks"]["dense"]["q"] / np.float32(2**0.5)
    assert np.abs(logits(rewrite.target, wrong) - logits(VARIANTS["llama"], p)).max() > 1e-2


def test_gradients_reach_what_is_new():
    c = config()
    p = random_params(c)
    for target, name, new in (
        ({"mlp": 57}, "down", np.s_[:, 40:]),
        ({"heads": 8}, "o", np.s_[:, 3]),
        ({"head_dim": 16}, "q", np.s_[..., 1]),
        ({"embed": 31}, "up", np.s_[:, 24:]),
    ):
        big, params = grown(widen(c, target), p)
        grads = jax.grad(lambda x, b=big: jnp.sum(forward(b, x, TOKENS) ** 2))(params)["blocks"]["dense"]
        if name == "up":  # the readers of new channels see zeros; the writers learn first
            assert float(jnp.abs(grads["down"][..., 24:]).max()) > 0
        else:
            assert float(jnp.abs(grads[name][new]).max()) > 0, target


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: widen(c, {"mlp": 30}), "target.mlp is 30, smaller than the source's 40"),
        (lambda c: widen(c, {"mpl": 50}), "did you mean 'mlp'"),
        (lambda c: widen(c, {"mlp": 50}, "pda"), "did you mean 'pad'"),
        (lambda c: widen(c, {"mlp": 50}, noise=0.1), "noise is for copies"),
        (lambda c: widen(c, {"embed": 50}, "aki"), "how='aki' makes neurons of the next layer's"),
        (lambda c: widen(c, {}), "not wider than the source"),
        (lambda c: widen(c, {"heads": 7}), "not a multiple of target.kv_heads"),
        (lambda c: widen(c, {"head_dim": 12}, "fpi"), "does not grow head_dim; use how='pad'"),
        (lambda c: widen(c, {"heads": 8, "kv_heads": 4}), "split into a divisor of 3 times as many"),
        (lambda c: widen(c, {"experts": 8}), "no mixture-of-experts layers"),
        (lambda c: deepen(c, 3), "target.layers is 3; growth needs more"),
        (lambda c: deepen(c, 7, "llama_por"), "did you mean 'llama_pro'"),
        (lambda c: deepen(c, 7, "depth_up_scale"), "an even number from 4 to 6"),
        (lambda c: deepen(c, 7), "4 new blocks do not fit 3 layers"),
    ],
)
def test_growth_that_cannot_be_is_refused_by_name(call, said):
    with pytest.raises(JaxptError, match=said):
        call(config())
