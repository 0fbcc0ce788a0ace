"""Hopper GPUs: tokamax's Mosaic kernel, forward and for both gradients.

On Blackwell its gradient of the matrices is missing. The class that takes the kernel by name is private to tokamax (the
public call chooses by the platform of the process), hence the exact version.
"""

import functools
from typing import Any

import jax

from jaxpt.kernels.grouped.call import GroupedCall
from jaxpt.kernels.grouped.rows import with_zero_rows
from jaxpt.kernels.machine import TOKAMAX, architecture, written


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
        _kernel()
    except Exception as e:  # a package of its own kinds of errors, and of many dependencies
        return f"tokamax cannot be imported ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
    return None


def _kernel() -> Any:
    from tokamax._src.ops.ragged_dot import pallas_mosaic_gpu

    return pallas_mosaic_gpu.PallasMosaicGpuRaggedDot


def run(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.grouped.dispatch.grouped_matmul` defines it."""
    return with_zero_rows(lambda x: _kernel()()(x, w, group_sizes=sizes, precision=precision), x, sizes)
