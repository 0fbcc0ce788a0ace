"""Hopper GPUs: tokamax's forward pass, and a backward pass of our own that skips hidden documents and windows, too.

tokamax's own backward pass computes all that is before the diagonal (H100, documents of 512 in rows of 4,096: 0.27 ms
forward, 2.05 with the backward pass). This one was compiled for an H100 and computed by Pallas' interpreter; it has not
run on a card yet, so no platform prefers it and it is taken where it is asked for by name.
"""

import functools

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention import hopper_gradients, mosaic
from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.passes import Gradients, Passes, attend
from jaxpt.kernels.attention.sharded import per_shard
from jaxpt.kernels.machine import architecture, written

SINCE = (0, 11, 2)  # of JAX, whose Pallas for Mosaic GPU had other arguments before


def refuses(call: Call) -> str | None:
    """Returns why these kernels do not take `call`."""
    if (reason := mosaic.refuses(call)) is not None:
        return reason
    if architecture(call.device_kind) != 90:
        return f"its backward pass is for Hopper, this is {call.device_kind}"
    if call.head_dim not in hopper_gradients.HEAD_DIMS:
        known = " or ".join(map(str, hopper_gradients.HEAD_DIMS))
        return f"head_dim {call.head_dim} is not {known}"
    version = call.version("jax")
    if version is None or version < SINCE:
        return f"its backward pass needs JAX {written(SINCE)}, this is {written(version or ())}"
    return None


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    logits: Logits,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """Returns attention as `jaxpt.kernels.attention.dispatch.attention` defines it."""
    return per_shard(functools.partial(attend, logits=logits, passes=PASSES), q, k, v, segment_ids)


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
    b, s = q.shape[:2]
    first = mosaic.first_keys(segment_ids, s, logits.window)
    first = jnp.zeros((1, s), jnp.int32) if first is None else first
    return hopper_gradients.gradients(
        q, k, v, jnp.broadcast_to(first, (b, s)), out, log_sum, d_out, scale=logits.scale, softcap=logits.softcap
    )


PASSES = Passes(mosaic.forward, backward)
