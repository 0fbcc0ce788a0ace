"""The reference: plain XLA, one matrix of logits `[S, T]` per row and head. It applies everywhere."""

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention.call import Call, Logits

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row without any key must not become NaN


def refuses(call: Call) -> str | None:
    """Returns None: it refuses nothing."""
    return None


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    logits: Logits,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """Returns attention as `jaxpt.kernels.attention.dispatch.attention` defines it."""
    return rows(q, k, v, logits, segment_ids, segment_ids, None)


def rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    logits: Logits,
    q_segments: jax.Array | None,
    k_segments: jax.Array | None,
    q_index: jax.Array | None,
) -> jax.Array:
    """Returns `run` for some of the queries: `q_index [B, s]` and `q_segments [B, s]` are theirs, or all's if None."""
    b, s, h, hd = q.shape
    t, kv = k.shape[1:3]
    precision = logits.precision
    q = q.reshape(b, s, kv, h // kv, hd)
    x = jnp.einsum("bskgh,btkh->bkgst", q, k, precision=precision, preferred_element_type=jnp.float32) * logits.scale
    if logits.softcap is not None:
        x = logits.softcap * jnp.tanh(x / logits.softcap)
    row = jnp.arange(s)[None, :, None] if q_index is None else q_index[:, :, None]
    column = jnp.arange(t)[None, None, :]
    seen = column <= row
    if logits.window is not None:
        seen &= column > row - logits.window
    if q_segments is not None and k_segments is not None:
        seen &= q_segments[:, :, None] == k_segments[:, None, :]
    x = jnp.where(seen[:, None, None], x, MASKED)
    weights = jax.nn.softmax(x, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgst,btkh->bskgh", weights, v, precision=precision).reshape(b, s, h, hd)
