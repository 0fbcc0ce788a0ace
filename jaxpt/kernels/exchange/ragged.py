"""TPU, and by name on GPUs: an all-to-all of exactly the rows that move (`jax.lax.ragged_all_to_all`)."""

import jax
import jax.numpy as jnp

from jaxpt.kernels.exchange.call import AXIS, Arrived, ExchangeCall


def refuses(call: ExchangeCall) -> str | None:
    """Returns why the exchange does not take `call`: XLA has none on CPUs."""
    return "XLA has none for CPUs" if call.platform == "cpu" else None


def run(rows: jax.Array, sizes: jax.Array, came: jax.Array) -> Arrived:
    """Returns what arrives, as `jaxpt.kernels.exchange.dispatch.exchange` defines it: by source, then by expert."""
    n, (ways, groups), me = rows.shape[0], sizes.shape, jax.lax.axis_index(AXIS)
    send, receive = jnp.sum(sizes, axis=1), jnp.sum(came, axis=1)
    table = jax.lax.all_gather(send, AXIS)  # [from, to]
    before = jnp.cumsum(table, axis=0) - table  # where a sender's rows start at each receiver
    start = jnp.cumsum(send) - send
    room = jnp.zeros((ways * n, rows.shape[1]), rows.dtype)
    there = jax.lax.ragged_all_to_all(rows, room, start, send, before[me], receive, axis_name=AXIS)
    block = jnp.searchsorted(jnp.cumsum(came.reshape(-1)), jnp.arange(ways * n), side="right")
    expert = jnp.where(block < ways * groups, block % groups, groups)

    def back(out: jax.Array) -> jax.Array:
        first = jnp.cumsum(receive) - receive
        home = (jnp.cumsum(table, axis=1) - table)[:, me]  # where my rows stood at each sender
        return jax.lax.ragged_all_to_all(out, jnp.zeros_like(rows), first, receive, home, send, axis_name=AXIS)

    return Arrived(there, expert, back)
