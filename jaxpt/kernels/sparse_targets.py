"""A distribution over the vocabulary kept as a few of its entries: drawn from it, and learnt from.

Random-sampling distillation (Sparse Logit Sampling, ACL 2025, arXiv 2503.16870): N draws from the teacher's p give
weights count / N whose mean is p, so that the cross-entropy with them, and its gradient q - weights, are those of the
whole distribution in the mean. The k likeliest entries alone, made to sum to 1, are not: they sharpen the student.
What they leave of 1 is therefore kept as one more event, "any other token".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LEAST = 1e-6  # of the probability that a student leaves for all other tokens: what float32 can tell from 0


class SparseTargets(NamedTuple):
    """What is kept of distributions `[...]`: `ids [..., N]` int32, `log_p [..., N]` their log-probabilities, and
    `entropy [...]` in nats, float32."""

    ids: jax.Array
    log_p: jax.Array
    entropy: jax.Array


def draw(logits: jax.Array, uniform: jax.Array) -> SparseTargets:
    """Returns one id per number of `uniform [..., N]` in [0, 1), by the inverse of the cumulative distribution.

    Args:
        logits: `[..., V]` float32.
        uniform: `[..., N]` float32.
    """
    log_p, entropy = _log_p(logits)
    cumulative = jax.lax.cummax(jnp.cumsum(jnp.exp(log_p), axis=-1), axis=log_p.ndim - 1)  # rounding may let it fall
    flat = cumulative.reshape(-1, cumulative.shape[-1])
    at = uniform.reshape(len(flat), -1) * flat[:, -1:]
    ids = jax.vmap(lambda c, u: jnp.searchsorted(c, u, side="right"))(flat, at)
    ids = jnp.minimum(ids, logits.shape[-1] - 1).astype(jnp.int32).reshape(uniform.shape)
    return SparseTargets(ids, jnp.take_along_axis(log_p, ids, axis=-1), entropy)


def likeliest(logits: jax.Array, k: int) -> SparseTargets:
    """Returns the `k` likeliest ids of `logits [..., V]`, by falling probability."""
    log_p, entropy = _log_p(logits)
    top, ids = jax.lax.top_k(log_p, k)
    return SparseTargets(ids.astype(jnp.int32), top, entropy)


def _log_p(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    p = jnp.exp(log_p)
    return log_p, -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1)


def sparse_cross_entropy(logits: jax.Array, lse: jax.Array, ids: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns `-Σ weights · log q [...]` in nats, q the softmax of the student's logits.

    What the weights leave of 1 is the weight of any other token; counts leave nothing.

    Args:
        logits: `[..., V]` float32.
        lse: `[...]` log-sum-exp of the logits.
        ids: `[..., K]` int.
        weights: `[..., K]` float32; 0 where there is no id, all 0 where there is nothing to learn.
    """
    log_q = jnp.take_along_axis(logits, ids, axis=-1) - lse[..., None]
    loss = -jnp.sum(weights * log_q, axis=-1)
    left = 1 - jnp.sum(jnp.where(weights > 0, jnp.exp(log_q), 0.0), axis=-1)
    rest = 1 - jnp.sum(weights, axis=-1)
    rest = jnp.where((rest > LEAST) & jnp.any(weights > 0, axis=-1), rest, 0.0)  # below, the rounding of counts
    return loss - rest * jnp.log(jnp.maximum(left, LEAST))
