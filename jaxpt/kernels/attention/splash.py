"""TPU: JAX's Pallas "splash" kernel, which skips the blocks of the mask that are all hidden."""

import functools
from typing import Any

import jax

from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.sharded import per_shard
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


def refuses(call: Call) -> str | None:
    """Returns why splash does not take `call`: another platform, a cache, sizes that are not whole tiles."""
    if call.platform == "gpu":
        return "it is for TPUs"
    if call.queries % 128:
        return f"sequence length {call.queries} is not a multiple of 128"
    if call.head_dim % 64:
        return f"head_dim {call.head_dim} is not a multiple of 64"
    return None


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    logits: Logits,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """Returns attention as `jaxpt.kernels.attention.dispatch.attention` defines it; on a CPU interpreted, for tests."""
    q = (q * logits.scale).astype(q.dtype)
    return per_shard(functools.partial(_local, logits=logits), q, k, v, segment_ids)


def _local(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    s, h = q.shape[1:3]
    one: masks.Mask = masks.CausalMask((s, s))
    if logits.window is not None:
        one = one & masks.LocalMask((s, s), (logits.window - 1, 0), 0)
    block = next(b for b in (BLOCK, 256, 128) if s % b == 0)
    tiles: dict[str, Any] = dict.fromkeys(TILES, block)
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([one] * h),
        block_sizes=kernel.BlockSizes(**tiles),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=logits.softcap,
        interpret=platform() == "cpu",
    )
    k, v = (jax.numpy.repeat(x, h // x.shape[2], axis=2) for x in (k, v))
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    if segment_ids is None:
        out = jax.vmap(lambda q, k, v: attend(q, k, v))(q, k, v)
    else:
        out = jax.vmap(lambda q, k, v, s: attend(q, k, v, kernel.SegmentIds(s, s)))(q, k, v, segment_ids)
    return out.swapaxes(1, 2)
