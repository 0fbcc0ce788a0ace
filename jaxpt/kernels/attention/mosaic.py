"""Hopper and Blackwell GPUs: tokamax's Mosaic kernel, its mask given by the first key that each query sees.

The forward pass skips the blocks before a document's start; on Hopper the backward pass does not. What takes starts in
place of a dense mask is private to tokamax: hence the exact version.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.documents import starts
from jaxpt.kernels.attention.sharded import per_shard
from jaxpt.kernels.machine import architecture
from jaxpt.kernels.tokamax_parts import import_error, wrong_version


def refuses(call: Call) -> str | None:
    """Returns why tokamax's kernel does not take `call`."""
    if call.platform != "gpu":
        return "it is for NVIDIA GPUs"
    if (architecture(call.device_kind) or 0) // 10 not in (9, 10):
        return f"it needs Hopper or Blackwell, this is {call.device_kind or 'unknown'}"
    if call.dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, not {call.dtype}"
    if call.head_dim % 8 or call.head_dim > 256:
        return f"head_dim {call.head_dim} is not a multiple of 8 up to 256"
    return wrong_version(call.version("tokamax")) or importable()


@functools.cache
def importable() -> str | None:
    """Returns why tokamax's kernel cannot be imported, None where it can."""
    return import_error(_modules)


def _modules() -> tuple[Any, Any]:
    from tokamax._src.ops.attention import base, pallas_mosaic_gpu

    return base.Mask, pallas_mosaic_gpu.PallasMosaicGpuFlashAttention


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    logits: Logits,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """Returns attention as `jaxpt.kernels.attention.dispatch.attention` defines it."""
    return per_shard(functools.partial(local, logits=logits), q, k, v, segment_ids)


def local(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits) -> jax.Array:
    """Returns attention of one device's rows and heads."""
    mask, kernel = _modules()
    first = first_keys(segment_ids, q.shape[1], logits.window)
    out: jax.Array = kernel()(
        q,
        k,
        v,
        mask=mask(k_start=None if first is None else first[:, None, :], is_causal=True),
        logits_scale=logits.scale,
        logits_soft_cap=logits.softcap,
    )
    return out


def first_keys(segment_ids: jax.Array | None, length: int, window: int | None) -> jax.Array | None:
    """Returns the first key that each query sees, `[B, S]` or `[1, S]` int32; None where that is the first of all."""
    first = None if segment_ids is None else starts(segment_ids)
    if window is None:
        return first
    reach = jnp.maximum(jnp.arange(length, dtype=jnp.int32) - (window - 1), 0)[None]
    return reach if first is None else jnp.maximum(first, reach)
