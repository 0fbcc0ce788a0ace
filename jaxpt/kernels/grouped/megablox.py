"""TPU: JAX's Pallas kernel (on a CPU interpreted, for tests)."""

import jax
import jax.numpy as jnp

from jaxpt.kernels.grouped.call import GroupedCall
from jaxpt.kernels.grouped.rows import with_zero_rows
from jaxpt.sharding.platform import platform

TILE = 128  # rows that one tile multiplies at once


def refuses(call: GroupedCall) -> str | None:
    """Returns why the kernel does not take `call`: another platform, a dtype or widths that it does not tile."""
    if call.platform == "gpu":
        return "it is for TPUs"
    if call.platform != "tpu":
        return None
    if call.dtype != "bfloat16":
        return f"it multiplies in bfloat16, not {call.dtype}"
    if call.width_in % 128 or call.width_out % 128:
        return f"widths {call.width_in} and {call.width_out} are not both multiples of 128"
    return None


def run(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.grouped.dispatch.grouped_matmul` defines it, rows padded to whole tiles."""
    from jax.experimental.pallas.ops.tpu.megablox import gmm

    rows = x.shape[0]
    tiling = (TILE, min(512, w.shape[1]), min(512, w.shape[2]))

    def product(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, -rows % TILE), (0, 0)))
        y = gmm(padded, w, sizes, preferred_element_type=x.dtype, tiling=tiling, interpret=platform() == "cpu")
        return y[:rows]

    return with_zero_rows(product, x, sizes)
