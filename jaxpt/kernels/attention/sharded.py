"""A kernel on each device's own rows and heads: what XLA cannot split is run per shard of the ambient mesh."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from jaxpt.sharding.activations import partition_spec

Local = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


def per_shard(run: Local, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Returns `run(q, k, v, segment_ids)`, `[B, S, H, h]`, each device computing its rows and heads.

    Args:
        run: gets one device's part of the arguments, H still a multiple of K.
        q: `[B, S, H, h]`, split over batch and heads as the activation rules say.
        k: `[B, S, K, h]`; where query heads are split and kv heads cannot be, each query head gets its own copy.
        v: `[B, S, K, h]`.
        segment_ids: `[B, S]` or None.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return run(q, k, v, segment_ids)
    heads = partition_spec(q.shape, "batch", None, "heads", None)
    kv = partition_spec(k.shape, "batch", None, "kv_heads", None)
    if heads[2] != kv[2]:
        k, v = (jax.numpy.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        kv = heads
    if segment_ids is None:
        without = lambda q, k, v: run(q, k, v, None)  # noqa: E731
        return jax.shard_map(without, in_specs=(heads, kv, kv), out_specs=heads, check_vma=False)(q, k, v)
    specs = (heads, kv, kv, PartitionSpec(heads[0], None))
    return jax.shard_map(run, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, segment_ids)
