"""The reference: every row times every matrix, the right one kept; E times the work."""

import jax
import jax.numpy as jnp

from jaxpt.kernels.grouped.call import GroupedCall


def refuses(call: GroupedCall) -> str | None:
    """Takes every call."""
    return None


def run(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.grouped.dispatch.grouped_matmul` defines it."""
    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[0])[:, None]
    mine = (row < ends) & (row >= ends - sizes)
    return jnp.einsum("mk,ekn,me->mn", x, w, mine.astype(x.dtype), precision=precision)
