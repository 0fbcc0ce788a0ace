"""Attention and its gradient in float64 NumPy, from the definition: what every implementation is compared with."""

import numpy as np


def attention(q, k, v, d_out, scale, segments=None, window=None, softcap=None):
    """Returns (out, dq, dk, dv) for q `[B, S, H, h]`, k and v `[B, S, K, h]`, and the gradient d_out of out."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    heads, kv_heads, length = q.shape[2], k.shape[2], q.shape[1]
    behind = np.arange(length)[:, None] - np.arange(length)[None, :]
    seen = (behind >= 0) & (behind < (length if window is None else window))
    seen = np.broadcast_to(seen, (q.shape[0], length, length)).copy()
    if segments is not None:
        segments = np.asarray(segments)
        seen &= segments[:, :, None] == segments[:, None, :]
    group = heads // kv_heads
    many_k, many_v = (np.repeat(x, group, axis=2) for x in (k, v))
    logits = np.einsum("bsnh,btnh->bnst", q, many_k) * scale
    slope = np.ones_like(logits)
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
        slope = 1 - (logits / softcap) ** 2
    logits = np.where(seen[:, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bnst,btnh->bsnh", weights, many_v)
    d_weights = np.einsum("bsnh,btnh->bnst", d_out, many_v)
    d_logits = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * slope * scale
    dq = np.einsum("bnst,btnh->bsnh", d_logits, many_k)
    of_groups = lambda x: x.reshape(*x.shape[:2], kv_heads, group, -1).sum(3)  # noqa: E731
    dk = of_groups(np.einsum("bnst,bsnh->btnh", d_logits, q))
    dv = of_groups(np.einsum("bnst,bsnh->btnh", weights, d_out))
    return out, dq, dk, dv
