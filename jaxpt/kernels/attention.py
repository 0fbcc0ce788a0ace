"""Causal attention over packed rows: one function, interchangeable implementations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpt.errors import JaxptError
from jaxpt.sharding.platform import platform

_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row without any key must not become NaN


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    q_index: jax.Array | None = None,
    implementation: str = "auto",
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Returns `softmax(mask(scale * q k^T)) v`, `[B, S, H, h]` in q's dtype; the softmax is float32.

    A query sees keys at its own index and before it, of its own segment, and within `window`.

    Args:
        q: `[B, S, H, h]`.
        k: `[B, T, K, h]`, H a multiple of K; query head n uses kv head `n // (H / K)`.
        v: `[B, T, K, h]`.
        scale: multiplies the dot products.
        segment_ids: `[B, S]` int (T = S), or None.
        window: how many keys a query sees at most, its own included.
        softcap: `softcap * tanh(logits / softcap)` before the mask, or None.
        q_index: `[B, S]` index of each query among the keys (decoding); None: query i is key i.
        implementation: a name from `IMPLEMENTATIONS`, or "auto": "splash" on TPU where it applies (head_dim a multiple
            of 64, S of 128, no cache), "xla" otherwise.
        precision: of the two matrix products.

    Raises:
        JaxptError: "splash" was asked for by name and does not apply.
    """
    if implementation == "auto":
        fits = q_index is None and not _splash_refuses(q, k)
        implementation = "splash" if platform() == "tpu" and fits else "xla"
    run = IMPLEMENTATIONS[implementation]
    return run(q, k, v, scale, segment_ids, window, softcap, q_index, precision)


def _xla(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
    segment_ids: jax.Array | None,
    window: int | None,
    softcap: float | None,
    q_index: jax.Array | None,
    precision: jax.lax.Precision | None,
) -> jax.Array:
    b, s, h, hd = q.shape
    t, kv = k.shape[1:3]
    q = q.reshape(b, s, kv, h // kv, hd)
    logits = jnp.einsum("bskgh,btkh->bkgst", q, k, precision=precision, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    row = jnp.arange(s)[None, :, None] if q_index is None else q_index[:, :, None]
    column = jnp.arange(t)[None, None, :]
    seen = column <= row
    if window is not None:
        seen &= column > row - window
    if segment_ids is not None:
        seen &= segment_ids[:, :, None] == segment_ids[:, None, :]
    logits = jnp.where(seen[:, None, None], logits, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgst,btkh->bskgh", weights, v, precision=precision).reshape(b, s, h, hd)


def _splash_refuses(q: jax.Array, k: jax.Array) -> str | None:
    if q.shape[1] % 128:
        return f"sequence length {q.shape[1]} is not a multiple of 128"
    if q.shape[3] % 64:
        return f"head_dim {q.shape[3]} is not a multiple of 64"
    return None


def _splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
    segment_ids: jax.Array | None,
    window: int | None,
    softcap: float | None,
    q_index: jax.Array | None,
    precision: jax.lax.Precision | None,
) -> jax.Array:
    """TPU flash attention: Pallas kernels that skip the blocks of the mask that are all hidden."""
    from jaxpt.kernels.splash import splash_attention

    reason = "decoding with a cache needs 'xla'" if q_index is not None else _splash_refuses(q, k)
    if reason:
        raise JaxptError(f"attention='splash' does not apply: {reason}; use attention='auto' or 'xla'")
    return splash_attention(q, k, v, scale=scale, segment_ids=segment_ids, window=window, softcap=softcap)


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {"xla": _xla, "splash": _splash}
