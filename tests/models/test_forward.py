"""Properties of the forward pass: packing, causality, windows, remat, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models import (
    Compute,
    LayerSpec,
    RopeConfig,
    flatten,
    forward,
    hidden,
    init_params,
    unembed,
    unflatten,
    uniform_layers,
)
from jaxpt.models.decoder import Decoder
from jaxpt.models.pattern import spans
from jaxpt.models.rope import inverse_frequencies
from tests.models.tiny import VARIANTS, config, random_params

pytestmark = pytest.mark.newest

TOKENS = jax.random.randint(jax.random.key(7), (2, 12), 0, 61)


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_documents_give_the_logits_of_separate_ones(name):
    c = VARIANTS[name]
    p = random_params(c)
    segments = jnp.array([[1] * 5 + [2] * 7, [1] * 12])
    packed = forward(c, p, TOKENS, segments)
    first, second = forward(c, p, TOKENS[:1, :5]), forward(c, p, TOKENS[:1, 5:])
    np.testing.assert_allclose(packed[0], np.concatenate([first[0], second[0]]), rtol=2e-5, atol=2e-5)
    if name != "local_rope":  # the proof can fail: without segment ids the second document sees the first
        assert not np.allclose(forward(c, p, TOKENS)[0, 5:], second[0], atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_logit_depends_on_a_later_token(name):
    c = VARIANTS[name]
    p = random_params(c)
    changed = TOKENS.at[:, 8].set((TOKENS[:, 8] + 1) % 61)
    a, b = forward(c, p, TOKENS), forward(c, p, changed)
    np.testing.assert_array_equal(a[:, :8], b[:, :8])
    assert not np.allclose(a[:, 8:], b[:, 8:], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_matters(name):
    c = VARIANTS[name]
    p = random_params(c)
    run = jax.jit(lambda p: forward(c, p, TOKENS))
    before, flat = run(p), flatten(p)
    for path, leaf in flat.items():
        noise = 0.5 * jax.random.normal(jax.random.key(1), leaf.shape)
        # a constant added to every key shifts a query's logits alike, so k's bias acts only through rope
        after = run(unflatten({**flat, path: leaf + noise}))
        assert float(jnp.abs(after - before).max()) > 1e-4, path


def test_a_window_of_one_sees_only_the_token_itself():
    c = config(layers=(LayerSpec("window", 1),))
    p = random_params(c)
    alone = forward(c, p, TOKENS.reshape(-1, 1))
    np.testing.assert_allclose(forward(c, p, TOKENS).reshape(-1, 61), alone[:, 0], rtol=2e-5, atol=2e-5)


def test_a_window_hides_exactly_the_tokens_before_it():
    c = config(layers=(LayerSpec("window", 4),))
    p = random_params(c)
    run = jax.jit(lambda t: forward(c, p, t)[0, 9])
    base = run(TOKENS)
    for i in range(10):
        moved = run(TOKENS.at[0, i].set((TOKENS[0, i] + 1) % 61))
        assert np.array_equal(moved, base) == (i < 6), i


def test_only_relative_positions_matter():
    c = VARIANTS["llama"]
    p = random_params(c)
    at = jnp.tile(jnp.arange(12), (2, 1))
    np.testing.assert_allclose(
        forward(c, p, TOKENS, positions=at + 9), forward(c, p, TOKENS, positions=at), rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(forward(c, p, TOKENS, positions=at * 2), forward(c, p, TOKENS, positions=at), atol=1e-3)


@pytest.mark.parametrize("remat", ["full", "dots", "dots_no_batch", "kernels", "branches", "offload_branches"])
def test_remat_changes_no_gradient(remat):
    c = VARIANTS["llama"]
    p = random_params(c)

    def grads(name):
        return jax.jit(jax.grad(lambda p: forward(c, p, TOKENS, compute=Compute(remat=name)).std()))(p)

    for a, b in zip(jax.tree.leaves(grads("none")), jax.tree.leaves(grads(remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_layers_written_out_change_neither_output_nor_gradient(name):
    c = VARIANTS[name]
    p = random_params(c)

    def both(unroll):
        compute = Compute(unroll=unroll, remat="full")
        return jax.jit(jax.value_and_grad(lambda p: forward(c, p, TOKENS, compute=compute).std()))(p)

    for a, b in zip(jax.tree.leaves(both(False)), jax.tree.leaves(both(True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_bfloat16_stays_near_float32_and_logits_are_float32():
    c = VARIANTS["qwen3"]
    p = random_params(c)
    full, half = (forward(c, p, TOKENS, compute=Compute(dtype=d)) for d in ("float32", "bfloat16"))
    assert half.dtype == jnp.float32
    assert 1e-4 < float(jnp.abs(half - full).max() / jnp.abs(full).max()) < 0.1
    wide = forward(c, p, TOKENS, compute=Compute(dtype="bfloat16", residual_dtype="float32"))
    assert float(jnp.abs(wide - full).mean()) < float(jnp.abs(half - full).mean())


def test_padded_vocabulary_has_no_probability():
    c = VARIANTS["llama"]
    p = random_params(c)
    pad = {
        **p,
        "embed": {"table": jnp.pad(p["embed"]["table"], ((0, 3), (0, 0)))},
        "head": jnp.pad(p["head"], ((0, 0), (0, 3))),
    }
    logits = unembed(c, pad, hidden(c, pad, TOKENS))
    assert logits.shape[-1] == 64
    assert bool(jnp.all(jnp.isneginf(logits[..., 61:])))
    np.testing.assert_array_equal(forward(c, pad, TOKENS), forward(c, p, TOKENS))


def test_scans_cover_the_layers_in_order_with_the_shortest_period():
    full, window = LayerSpec(), LayerSpec("window", 4)
    cases = {
        (full,) * 6: [(1, 6)],
        (window, full) * 3: [(2, 3)],
        (window, window, full) * 2: [(3, 2)],
        (full, window, window, window): [(1, 1), (1, 3)],
    }
    for layers, want in cases.items():
        got = spans(config(layers=layers))
        assert [(len(s.period), s.repeats) for s in got] == want
        assert sum((s.period * s.repeats for s in got), ()) == layers


def test_mixed_patterns_equal_an_unrolled_run():
    c = config(layers=(LayerSpec(), LayerSpec("window", 3), LayerSpec("window", 3), LayerSpec("window", 3)))
    p = random_params(c)
    by_layer = []
    for i, layer in enumerate(c.layers):
        by_layer.append((c.replace(layers=(layer,)), jax.tree.map(lambda a, i=i: a[i : i + 1], p["blocks"])))
    from jaxpt.models.block import Block, Context
    from jaxpt.models.decoder import hidden
    from jaxpt.models.rope import cos_sin

    positions = jnp.tile(jnp.arange(12), (2, 1))
    ctx = Context({"global": cos_sin(c.rope, c.head_dim, positions)}, None)
    x = p["embed"]["table"][TOKENS]
    for one, blocks in by_layer:
        block = Block(one, jax.tree.map(lambda a: a[0], blocks)["dense"])
        x, _ = block(x, one.layers[0], ctx, Compute())
    np.testing.assert_allclose(hidden(c, p, TOKENS, None, positions, Compute())[0], _normed(x, p), rtol=2e-5, atol=2e-5)


def _normed(x, p):
    return x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + 1e-5) * p["final_norm"]


def test_stretched_frequencies_agree_with_their_published_limits():
    plain, _ = inverse_frequencies(RopeConfig(theta=1e4), 64)
    np.testing.assert_allclose(plain, 1e4 ** (-np.arange(0, 64, 2) / 64), rtol=1e-6)
    linear, _ = inverse_frequencies(RopeConfig("linear", 1e4, 4.0), 64)
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-6)
    for kind in ("llama3", "yarn"):
        got, factor = inverse_frequencies(RopeConfig(kind, 1e4, 8.0, 8192), 64)
        np.testing.assert_allclose(got[0], plain[0], rtol=1e-6)  # fast pairs are kept
        np.testing.assert_allclose(got[-1], plain[-1] / 8, rtol=1e-6)  # slow pairs are stretched in full
        assert np.all(np.diff(got) < 0), kind
        assert factor == (pytest.approx(0.1 * np.log(8) + 1) if kind == "yarn" else 1.0)


def test_the_module_that_declares_the_parameters_computes_the_same():
    c = config(layers=uniform_layers(2), tie_embeddings=False)
    positions = jnp.tile(jnp.arange(12), (2, 1))
    logits = Decoder(c, 3)(TOKENS, None, positions, Compute())
    np.testing.assert_allclose(logits, forward(c, init_params(c, 3), TOKENS), rtol=1e-5, atol=1e-6)
