"""Rows after the last group: kernels leave them as they were in memory, here they are zero."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def with_zero_rows(product: Callable[[jax.Array], jax.Array], x: jax.Array, sizes: jax.Array) -> jax.Array:
    """Returns `product(x)`, `[M, N]`, with zero in the rows after `sum(sizes)`; so are those rows' gradients."""
    real = jnp.arange(x.shape[0])[:, None] < jnp.sum(sizes)
    return jnp.where(real, product(jnp.where(real, x, 0)), 0)
