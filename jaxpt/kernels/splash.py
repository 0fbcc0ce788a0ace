"""Attention by JAX's Pallas "splash" kernel, per shard of the ambient mesh."""

import functools
from typing import Any

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from jaxpt.sharding.activations import partition_spec
from jaxpt.sharding.platform import platform

BLOCK = 512  # rows and columns of one tile; smaller where the sequence is
TILES = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)


def splash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    segment_ids: jax.Array | None,
    window: int | None,
    softcap: float | None,
) -> jax.Array:
    """Returns causal attention as `jaxpt.kernels.attention.attention` defines it.

    Args:
        q: `[B, S, H, h]`, S a multiple of 128, h of 64. Sharded over batch and heads as the activation rules say;
            the kernel runs on each shard alone. On a CPU it runs interpreted (for tests).
        k: `[B, S, K, h]`.
        v: `[B, S, K, h]`.
        scale: multiplies q.
        segment_ids: `[B, S]` int32 or None.
        window: keys a query sees, its own included, or None.
        softcap: cap of the logits or None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    local = functools.partial(_local, window=window, softcap=softcap)
    q = (q * scale).astype(q.dtype)
    if mesh.empty:
        return local(q, k, v, segment_ids)
    heads = partition_spec(q.shape, "batch", None, "heads", None)
    kv = partition_spec(k.shape, "batch", None, "kv_heads", None)
    if heads[2] != kv[2]:  # query heads are split and kv heads are not: give each query head its own copy
        k, v = (jax.numpy.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        kv = heads
    seg = PartitionSpec(heads[0], None)
    args: tuple[jax.Array, ...] = (q, k, v)
    specs: tuple[PartitionSpec, ...] = (heads, kv, kv)
    if segment_ids is not None:
        args, specs = (*args, segment_ids), (*specs, seg)
    run = local if segment_ids is not None else functools.partial(local, segment_ids=None)
    return jax.shard_map(run, in_specs=specs, out_specs=heads, check_vma=False)(*args)


def _local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    *,
    window: int | None,
    softcap: float | None,
) -> jax.Array:
    s, h = q.shape[1:3]
    one: masks.Mask = masks.CausalMask((s, s))
    if window is not None:
        one = one & masks.LocalMask((s, s), (window - 1, 0), 0)
    block = next(b for b in (BLOCK, 256, 128) if s % b == 0)
    tiles: dict[str, Any] = dict.fromkeys(TILES, block)
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([one] * h),
        block_sizes=kernel.BlockSizes(**tiles),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=platform() == "cpu",
    )
    k, v = (jax.numpy.repeat(x, h // x.shape[2], axis=2) for x in (k, v))
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    if segment_ids is None:
        out = jax.vmap(lambda q, k, v: run(q, k, v))(q, k, v)
    else:
        out = jax.vmap(lambda q, k, v, s: run(q, k, v, kernel.SegmentIds(s, s)))(q, k, v, segment_ids)
    return out.swapaxes(1, 2)
