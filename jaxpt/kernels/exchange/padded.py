"""Everywhere: an all-to-all with room for every row in each direction, `ways` times the traffic."""

import jax
import jax.numpy as jnp

from jaxpt.kernels.exchange.call import AXIS, Arrived, ExchangeCall


def refuses(call: ExchangeCall) -> str | None:
    """Returns None: it applies everywhere."""
    del call
    return None


def run(rows: jax.Array, sizes: jax.Array, came: jax.Array) -> Arrived:
    """Returns what arrives, as `jaxpt.kernels.exchange.dispatch.exchange` defines it: from each device equally much."""
    n, ways = rows.shape[0], sizes.shape[0]
    send = jnp.sum(sizes, axis=1)
    start = jnp.cumsum(send) - send
    index = start[:, None] + jnp.arange(n)
    real = jnp.arange(n) < send[:, None]
    box = jnp.where(real[..., None], rows[jnp.minimum(index, n - 1)], 0)
    there = jax.lax.all_to_all(box, AXIS, 0, 0, tiled=True)
    ends = jnp.cumsum(came, axis=1)
    expert = jax.vmap(lambda e: jnp.searchsorted(e, jnp.arange(n), side="right"))(ends)

    def back(out: jax.Array) -> jax.Array:
        box = jax.lax.all_to_all(out.reshape(ways, n, -1), AXIS, 0, 0, tiled=True)
        owner = jnp.searchsorted(jnp.cumsum(send), jnp.arange(n), side="right")
        travelled = owner < ways
        owner = jnp.where(travelled, owner, 0)
        return jnp.where(travelled[:, None], box[owner, jnp.arange(n) - start[owner]], 0)

    return Arrived(there.reshape(ways * n, -1), expert.reshape(-1), back)
