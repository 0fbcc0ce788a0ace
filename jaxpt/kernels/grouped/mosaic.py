"""Hopper GPUs: tokamax's Mosaic kernel, forward and for both gradients.

On Blackwell its gradient of the matrices is missing. The class that takes the kernel by name is private to tokamax (the
public call chooses by the platform of the process), hence the exact version.
"""

import functools
from typing import Any

import jax

from jaxpt.kernels.grouped.call import GroupedCall
from jaxpt.kernels.grouped.rows import with_zero_rows
from jaxpt.kernels.machine import architecture
from jaxpt.kernels.tokamax_parts import import_error, wrong_version


def refuses(call: GroupedCall) -> str | None:
    """Returns why tokamax's kernel does not take `call`."""
    if call.platform != "gpu":
        return "it is for NVIDIA GPUs"
    if (architecture(call.device_kind) or 0) // 10 != 9:
        return f"it needs Hopper, this is {call.device_kind or 'unknown'}"
    if call.dtype not in ("bfloat16", "float16"):
        return f"it multiplies in bfloat16 or float16, not {call.dtype}"
    if call.width_in % 64 or call.width_out % 64:
        return f"widths {call.width_in} and {call.width_out} are not both multiples of 64"
    return wrong_version(call.version("tokamax")) or importable()


@functools.cache
def importable() -> str | None:
    """Returns why tokamax's kernel cannot be imported, None where it can."""
    return import_error(_kernel)


def _kernel() -> Any:
    from tokamax._src.ops.ragged_dot import pallas_mosaic_gpu

    return pallas_mosaic_gpu.PallasMosaicGpuRaggedDot


def run(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.grouped.dispatch.grouped_matmul` defines it."""
    return with_zero_rows(lambda x: _kernel()()(x, w, group_sizes=sizes, precision=precision), x, sizes)
