"""Hopper and Blackwell GPUs: tokamax's Mosaic kernel, its mask given by the first key that each query sees.

The forward pass skips the blocks before a document's start; on Hopper the backward pass does not. What takes starts in
place of a dense mask is private to tokamax, and so is its backward pass by itself: hence the exact version.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.documents import starts
from jaxpt.kernels.attention.passes import Gradients, Passes, attend
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
    return per_shard(functools.partial(attend, logits=logits, passes=PASSES), q, k, v, segment_ids)


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits
) -> tuple[jax.Array, jax.Array]:
    """The forward pass, see `jaxpt.kernels.attention.passes.Forward`."""
    kernel, options = _kernel_and_options(segment_ids, q.shape[1], logits)
    out, (largest, total) = kernel(q, k, v, **options, return_residuals=True)
    return out, largest + jnp.log(total)


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    out: jax.Array,
    log_sum: jax.Array,
    d_out: jax.Array,
    *,
    logits: Logits,
) -> Gradients:
    """The backward pass, see `jaxpt.kernels.attention.passes.Backward`."""
    kernel, options = _kernel_and_options(segment_ids, q.shape[1], logits)
    bound = kernel.bind(q, k, v, **options)
    settings = {name: value for name, value in bound.kwargs.items() if name != "return_residuals"}
    statistics = log_sum, jnp.ones_like(log_sum)  # the largest logit and the sum above it: only max + log(sum) counts
    d = kernel.vjp(statistics, out, d_out, *bound.args, **settings)
    return d["q"], d["k"], d["v"]


PASSES = Passes(forward, backward)


def _kernel_and_options(segment_ids: jax.Array | None, length: int, logits: Logits) -> tuple[Any, dict[str, Any]]:
    mask, kernel = _modules()
    first = first_keys(segment_ids, length, logits.window)
    starts_of_keys = None if first is None else first[:, None, :]
    return kernel(), {
        "mask": mask(k_start=starts_of_keys, is_causal=True),
        "logits_scale": logits.scale,
        "logits_soft_cap": logits.softcap,
    }


def first_keys(segment_ids: jax.Array | None, length: int, window: int | None) -> jax.Array | None:
    """Returns the first key that each query sees, `[B, S]` or `[1, S]` int32; None where that is the first of all."""
    first = None if segment_ids is None else starts(segment_ids)
    if window is None:
        return first
    reach = jnp.maximum(jnp.arange(length, dtype=jnp.int32) - (window - 1), 0)[None]
    return reach if first is None else jnp.maximum(first, reach)
