"""Attention over what is stored: parts that a batch shares and parts of each row, each with what is seen of it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention.call import Logits
from jaxpt.kernels.attention.xla import MASKED


class Stored(NamedTuple):
    """Keys and values `[B, K, T, h]`, or `[K, T, h]` where all rows share them; heads first, as products read them."""

    keys: jax.Array
    values: jax.Array


def heads_first(x: jax.Array) -> jax.Array:
    """Returns `[B, S, K, h]` as `[B, K, S, h]`."""
    return jnp.swapaxes(x, 1, 2)


def attend(q: jax.Array, parts: Sequence[tuple[Stored, jax.Array]], logits: Logits) -> jax.Array:
    """Returns attention of `q [B, S, H, h]` over all parts together, `[B, S, H, h]`.

    Args:
        q: queries.
        parts: what is stored, each with a bool array that is broadcast to `[B, S, T]`: what a query sees of it.
        logits: scale, softcap and precision.
    """
    b, s, h, hd = q.shape
    kv = parts[0][0].keys.shape[-3]
    q = jnp.transpose(q.reshape(b, s, kv, h // kv, hd), (0, 2, 3, 1, 4)).reshape(b, kv, -1, hd)
    scores = []
    for stored, seen in parts:
        x = _product(q, jnp.swapaxes(stored.keys, -1, -2), logits.precision, jnp.float32) * logits.scale
        if logits.softcap is not None:
            x = logits.softcap * jnp.tanh(x / logits.softcap)
        x = x.reshape(b, kv, h // kv, s, -1)
        scores.append(jnp.where(seen[:, None, None], x, MASKED))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(q.dtype)
    weights = weights.reshape(b, kv, -1, weights.shape[-1])
    out, at = jnp.zeros(q.shape, q.dtype), 0
    for stored, _ in parts:
        t = stored.keys.shape[-2]
        out = out + _product(weights[..., at : at + t], stored.values, logits.precision, q.dtype)
        at += t
    return jnp.transpose(out.reshape(b, kv, h // kv, s, hd), (0, 3, 1, 2, 4)).reshape(b, s, h, hd)


def _product(
    x: jax.Array, stored: jax.Array, precision: jax.lax.Precision | None, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """`[B, K, N, a]` times `[B, K, a, c]` or `[K, a, c]`; of one query no operand of an other product is transposed."""
    if stored.ndim == 4:
        return jnp.matmul(x, stored, precision=precision, preferred_element_type=dtype)
    return jnp.einsum("bkna,kac->bknc", x, stored, precision=precision, preferred_element_type=dtype)
