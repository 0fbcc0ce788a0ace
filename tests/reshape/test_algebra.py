"""The algebra on named axes: what must keep the function keeps it, masks equal cuts, and the proofs can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import flatten, forward, param_specs, unflatten
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import AxisMap, duplicate, mask, pad, permute, rewrite_axes, scale, select
from jaxpt.reshape.ops import Mix
from jaxpt.reshape.rewrite import Rewrite, copy
from tests.models.tiny import DENSE, VARIANTS, some_slow
from tests.reshape.proofs import TOKENS, close, logits, random_params, reshaped

RNG = np.random.default_rng(0)


def orders(layers, n):
    return np.stack([RNG.permutation(n) for _ in range(layers)])


@pytest.mark.parametrize("name", some_slow(VARIANTS))
def test_permuting_any_axis_keeps_the_function(name):
    c = VARIANTS[name]
    p = random_params(c)
    want, n = logits(c, p), len(c.layers)
    heads = np.stack([np.concatenate([g * 3 + RNG.permutation(3) for g in range(2)]) for _ in range(n)])
    for axis, order in {
        "embed": RNG.permutation(c.embed),
        "mlp": orders(n, c.mlp),
        "kv_heads": np.array([[1, 0]] * n),
        "heads": heads,
        "head_dim": orders(n, c.head_dim),
    }.items():
        close(reshaped(permute(c, axis, order), p), want)


def test_permuting_all_but_one_parameter_changes_the_function():  # the proof above can fail
    c = VARIANTS["llama"]
    p = random_params(c)
    for axis, path in {"embed": "final_norm", "mlp": "blocks/dense/gate", "kv_heads": "blocks/dense/k"}.items():
        order = np.roll(np.arange({"embed": 24, "mlp": 40, "kv_heads": 2}[axis]), 1)
        moved = flatten(apply(permute(c, axis, order), p)) | {path: flatten(p)[path]}
        assert not np.allclose(logits(c, unflatten(moved)), logits(c, p), atol=1e-2), axis


KEEP = {"embed": 10, "mlp": 17, "kv_heads": 1}


@pytest.mark.parametrize("name", some_slow(DENSE))
def test_a_masked_model_computes_what_the_cut_model_computes(name):
    c = VARIANTS[name]
    p = random_params(c)
    n = len(c.layers)
    for axis, k in KEEP.items():
        size = {"embed": c.embed, "mlp": c.mlp, "kv_heads": c.kv_heads}[axis]
        keep = RNG.permutation(size)[:k] if axis == "embed" else orders(n, size)[:, :k]
        cut, masked = select(c, axis, keep), mask(c, axis, keep)
        assert masked.target.embed == c.embed
        close(reshaped(masked, p), reshaped(cut, p))
        assert not np.allclose(reshaped(cut, p), logits(c, p), atol=1e-2)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "olmo2"])
def test_masking_query_heads_within_groups_equals_cutting_them(name):
    c = VARIANTS[name]
    p = random_params(c)
    keep = np.array([[0, 2, 4, 5]] * len(c.layers))
    close(reshaped(mask(c, "heads", keep), p), reshaped(select(c, "heads", keep), p))


@pytest.mark.parametrize("name", some_slow(VARIANTS))
def test_masks_and_cuts_on_all_axes_jointly_agree(name):
    c = VARIANTS[name]
    a = b = random_params(c)
    ca = cb = c
    for axis, keep in (("embed", [3, 1, 9, 20]), ("mlp", [5, 7, 30]), ("kv_heads", [1])):
        cut, masked = select(ca, axis, keep), mask(cb, axis, keep)
        a, b, ca, cb = apply(cut, a), apply(masked, b), cut.target, masked.target
    close(logits(cb, b), logits(ca, a))


def test_a_mask_that_forgets_the_norms_statistic_is_wrong():  # the proof above can fail
    c = VARIANTS["llama"]
    p = random_params(c)
    keep = np.arange(10)
    on = (np.arange(24) < 10).astype(np.float32)
    naive = rewrite_axes(c, {"embed": AxisMap(None, on, on, on)})
    assert not np.allclose(reshaped(naive, p), reshaped(select(c, "embed", keep), p), atol=1e-2)


@pytest.mark.parametrize("name", some_slow(VARIANTS))
def test_duplication_and_padding_keep_the_function(name):
    c = VARIANTS[name]
    p = random_params(c)
    want = logits(c, p)
    uneven = np.concatenate([np.arange(24), [0, 0, 5, 7, 7]])
    rewrites = [
        duplicate(c, "embed", uneven),
        duplicate(c, "mlp", np.concatenate([np.arange(40), [3, 3, 9]])),
        pad(c, "embed", 31),
        pad(c, "mlp", 45),
        pad(c, "embed", 31, fresh=False),
    ]
    if name != "olmo2":
        rewrites += [
            duplicate(c, "kv_heads", [0, 1, 1, 0]),
            duplicate(c, "heads", [0, 0, 1, 2, 3, 4, 5, 5]),
            pad(c, "kv_heads", 3),
        ]
    for rewrite in rewrites:
        close(reshaped(rewrite, p), want)


def test_uneven_duplication_by_counts_alone_is_wrong():  # what bert2BERT's rule would do under RMSNorm
    c = VARIANTS["llama"]
    p = random_params(c)
    index = np.concatenate([np.arange(24), [0, 0, 5]])
    count = (index[:, None] == index[None]).sum(1)
    rewrite = rewrite_axes(c, {"embed": AxisMap(index, 1 / count)})
    assert not np.allclose(reshaped(rewrite, p), logits(c, p), atol=1e-2)


def test_padding_draws_what_init_draws_and_only_there():
    c = VARIANTS["llama"]
    p = random_params(c)
    out = flatten(apply(pad(c, "mlp", 45, seed=3), p))
    gate, down = out["blocks/dense/gate"], out["blocks/dense/down"]
    np.testing.assert_array_equal(gate[..., :40], flatten(p)["blocks/dense/gate"])
    assert float(jnp.abs(gate[..., 40:]).min()) > 0
    assert not np.any(down[:, 40:])


@pytest.mark.parametrize("name", VARIANTS)
def test_cutting_what_was_padded_gives_the_source_back(name):
    c = VARIANTS[name]
    p = random_params(c)
    for axis, size, keep in (("mlp", 45, np.arange(40)), ("vocab", 70, np.arange(61))):
        rewrite = pad(c, axis, size)
        back = apply(select(rewrite.target, axis, keep), apply(rewrite, p))
        jax.tree.map(np.testing.assert_array_equal, back, p)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "olmo2"])
@pytest.mark.parametrize("axis", ["kv_heads", "heads", "mlp", "embed"])
def test_cutting_every_copy_but_one_and_merging_its_readers_gives_the_source_back(name, axis):
    c = VARIANTS[name]
    p = random_params(c)
    size = {"kv_heads": 2, "heads": 6, "mlp": 40, "embed": 24}[axis]
    twice = duplicate(c, axis, np.repeat(np.arange(size), 2))
    first = select(twice.target, axis, np.arange(size) * 2)
    share = 2**0.5 if axis == "embed" else 2.0  # each copy had its part of the effect
    merge = scale(first.target, axis, reader=share, **({"writer": share, "gain": share} if axis == "embed" else {}))
    if axis == "kv_heads":
        merge = scale(first.target, "heads", reader=share)
    cut = apply(first, apply(twice, p))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), apply(merge, cut), p)
    if name == "llama":  # unmerged, half of it is lost (where no norm behind the branch restores it)
        assert not np.allclose(logits(first.target, cut), logits(c, p), atol=1e-2)


def test_dtypes_are_kept_and_host_arrays_stay_on_the_host():
    c = VARIANTS["qwen3"]
    p = jax.tree.map(lambda a: a.astype(jnp.bfloat16), random_params(c))
    for rewrite in (
        select(c, "embed", np.arange(8)),
        duplicate(c, "embed", np.arange(48) % 24),
        scale(c, "mlp", reader=2),
    ):
        host = apply(rewrite, p)
        device = apply(rewrite, jax.tree.map(jnp.asarray, p))
        for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
            assert isinstance(a, np.ndarray)
            assert a.dtype == b.dtype == jnp.bfloat16
            np.testing.assert_array_equal(a, np.asarray(b))


def test_moments_follow_the_inverse_scale():
    c = VARIANTS["llama"]
    p = random_params(c)
    rewrite = duplicate(c, "mlp", np.arange(80) % 40)
    for power in (1, 2):
        out = flatten(apply(rewrite, p, moment=power))
        np.testing.assert_allclose(out["blocks/dense/down"][:, :40], flatten(p)["blocks/dense/down"] * 2**power)
        np.testing.assert_array_equal(out["blocks/dense/gate"][..., 40:], flatten(p)["blocks/dense/gate"])


def test_gradients_of_a_permuted_model_are_the_moments_carried_along():
    c = VARIANTS["qwen2"]
    p = random_params(c)
    rewrite = permute(c, "embed", np.roll(np.arange(24), 5))

    def grads(p):
        return jax.grad(lambda p: forward(c, p, TOKENS).std())(p)

    carried, direct = apply(rewrite, grads(p), moment=1), grads(apply(rewrite, p))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), carried, direct)


@pytest.mark.parametrize(
    ("axis", "index", "said"),
    [
        ("embde", [0], "did you mean 'embed'"),
        ("mlp", [[0, 1]], "does not fit 3 layers"),
        ("embed", [24], "outside 0 … 23"),
        ("heads", [0, 1, 2, 3], "equally many query heads"),
    ],
)
def test_bad_index_sets_are_refused_by_name(axis, index, said):
    with pytest.raises(JaxptError, match=said):
        select(VARIANTS["llama"], axis, index)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_any_rotation_of_the_stream_keeps_the_function_once_gains_are_folded(name):
    c = VARIANTS[name]
    p = random_params(c)
    want, flat = logits(c, p), flatten(p)
    turn, _ = np.linalg.qr(RNG.normal(size=(24, 24)))

    def rotated(leaves):
        rules = {}
        for path, spec in flatten(param_specs(c)).items():
            if "embed" in spec.axes and not spec.gain:
                rules[path] = (copy(path, spec, [Mix(spec.axes.index("embed") - spec.stacked, 1, turn, (24,))]),)
            else:
                rules[path] = (copy(path, spec),)
        return logits(c, apply(Rewrite(c, c, rules), unflatten(leaves)))

    assert not np.allclose(rotated(flat), want, atol=1e-2)  # gains do not commute with a rotation
    for norm, readers in {"attn_norm": ("q", "k", "v"), "mlp_norm": ("gate", "up")}.items():
        gain = flat[f"blocks/dense/{norm}"]
        for r in readers:
            w = flat[f"blocks/dense/{r}"]
            flat[f"blocks/dense/{r}"] = w * gain.reshape(*gain.shape, *[1] * (w.ndim - 2))
        flat[f"blocks/dense/{norm}"] = np.ones_like(gain)
    flat["head"] = flat["head"] * flat["final_norm"][:, None]
    flat["final_norm"] = np.ones_like(flat["final_norm"])
    close(rotated(flat), want, 1e-4)
