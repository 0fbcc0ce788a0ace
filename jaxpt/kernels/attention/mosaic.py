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
from jaxpt.kernels.machine import TOKAMAX, architecture, written


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
    found = call.version("tokamax")
    if found is None:
        return f"tokamax {written(TOKAMAX)} is not installed (pip install 'jaxpt[gpu]', Python 3.12 or newer)"
    if found != TOKAMAX:
        return f"it needs tokamax {written(TOKAMAX)}, {written(found)} is installed"
    return importable()


@functools.cache
def importable() -> str | None:
    """Returns why tokamax's kernel cannot be imported, None where it can."""
    try:
        _modules()
    except Exception as e:  # a package of its own kinds of errors, and of many dependencies
        return f"tokamax cannot be imported ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
    return None


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
