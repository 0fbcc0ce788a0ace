"""Chunked cross-entropy equals the dense one, loss and gradients, and never holds all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.cross_entropy import cross_entropy
from jaxpt.kernels.token_chunks import chunk_length, summed

B, S, D, V = 2, 12, 8, 37


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (B, S, D))
    head = {"head": jax.random.normal(keys[1], (D, V))}
    targets = jax.random.randint(keys[2], (B, S), 0, V)
    weights = jax.random.uniform(keys[3], (B, S)) * (jnp.arange(S) != 3)
    return head, {}, x, targets, weights


def logits_of(head, rest, x):
    return 5 * jnp.tanh((x @ head["head"]) / 5)  # a softcap, so that the unembedding is not linear


def dense(logits_of, head, rest, x, targets, weights, z):
    return chunked(logits_of, head, rest, x, targets, weights, z, None)


def chunked(logits_of, head, rest, x, targets, weights, z, chunk):
    tokens = {"targets": targets, "weights": weights}
    loss, facts = summed(cross_entropy(logits_of, z), head, rest, x, tokens, chunk)
    return loss, *facts


def by_hand(head, x, targets, weights, z):
    logits = np.asarray(logits_of(head, {}, x), np.float64)
    lse = np.log(np.exp(logits).sum(-1))
    nll = lse - np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]
    return (np.asarray(weights) * (nll + z * lse**2)).sum()


@pytest.mark.parametrize("chunk", [1, 3, 12])
@pytest.mark.parametrize("z", [0.0, 0.1])
def test_chunks_give_the_dense_loss_and_gradients(chunk, z):
    head, rest, x, targets, weights = inputs()
    f = lambda h, x: dense(logits_of, h, rest, x, targets, weights, z)[0]  # noqa: E731
    g = lambda h, x: chunked(logits_of, h, rest, x, targets, weights, z, chunk)[0]  # noqa: E731
    np.testing.assert_allclose(f(head, x), by_hand(head, x, targets, weights, z), rtol=1e-5)
    (a, da), (b, db) = (jax.value_and_grad(h, argnums=(0, 1))(head, x) for h in (f, g))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6), da, db)
    scaled = jax.grad(lambda h: 3 * g(h, x))(head)
    np.testing.assert_allclose(scaled["head"], 3 * da[0]["head"], rtol=1e-5, atol=1e-5)


def test_per_token_parts_are_those_of_the_dense_form():
    head, rest, x, targets, weights = inputs()
    a = dense(logits_of, head, rest, x, targets, weights, 0.1)
    b = chunked(logits_of, head, rest, x, targets, weights, 0.1, 4)
    for p, q in zip(a, b):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-5)


def test_leaving_out_the_z_loss_would_be_seen():  # the comparison above can fail
    head, rest, x, targets, weights = inputs()
    with_z = jax.grad(lambda h: chunked(logits_of, h, rest, x, targets, weights, 0.1, 4)[0])(head)
    without = jax.grad(lambda h: chunked(logits_of, h, rest, x, targets, weights, 0.0, 4)[0])(head)
    assert not np.allclose(with_z["head"], without["head"], atol=1e-3)


def test_all_logits_exist_in_the_dense_form_and_in_no_chunked_one():
    head, rest, x, targets, weights = inputs()
    whole = f"f32[{B},{S},{V}]"
    f = jax.make_jaxpr(jax.grad(lambda h: dense(logits_of, h, rest, x, targets, weights, 0.1)[0]))(head)
    g = jax.make_jaxpr(jax.grad(lambda h: chunked(logits_of, h, rest, x, targets, weights, 0.1, 4)[0]))(head)
    assert whole in str(f)
    assert whole not in str(g)


def test_the_chunk_is_the_longest_divisor_that_fits():
    assert chunk_length(8, 256, 4096, limit=64 * 2**20) == 256
    assert chunk_length(8, 4096, 128_256, limit=64 * 2**20) == 16
    assert chunk_length(8, 7, 10**9) == 1
    assert chunk_length(1, 4096, 304_000, width=2048) == 512  # a quarter of the width, whatever the logits take
    assert chunk_length(8, 4096, 304_000, width=2048) == 64  # rows count
    assert chunk_length(8, 256, 4096, width=16) == 256
