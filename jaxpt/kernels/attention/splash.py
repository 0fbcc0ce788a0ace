"""TPU: the Pallas kernel "splash", which skips the blocks of the mask that are all hidden.

It stands in two places. tokamax's is the newer: its passes also skip the blocks that no document reaches, and the
backward pass is one kernel; what jaxpt takes of it is private, hence the exact version. Where that is not installed,
JAX's own: it skips what the causal mask and the window hide, and masks documents within the blocks that it computes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.sharded import per_shard
from jaxpt.kernels.attention.splash_tiles import Tiles, tiles
from jaxpt.kernels.machine import INSTALLED, version_in
from jaxpt.kernels.tokamax_parts import import_error, wrong_version
from jaxpt.sharding.platform import device_kind, platform

OneRow = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]  # one row: [H, S, h], [K, S, h], [S]


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
    _, s, h, head_dim = q.shape
    sizes = tiles(device_kind(), s, head_dim * q.dtype.itemsize)
    make = _tokamax_kernel if tokamax_is_there() else _jax_kernel
    attend = make(sizes, s, h, logits)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    if segment_ids is None:
        out = jax.vmap(lambda q, k, v: attend(q, k, v, None))(q, k, v)
    else:
        out = jax.vmap(attend)(q, k, v, segment_ids)
    return out.swapaxes(1, 2)


@functools.cache
def tokamax_is_there() -> bool:
    """Whether tokamax's kernel is the one that is run: its exact version is installed and can be imported."""
    return wrong_version(version_in(INSTALLED, "tokamax")) is None and import_error(_tokamax) is None


def _tokamax() -> tuple[Any, Any]:
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    return splash_attention_kernel, splash_attention_mask


def _mask(masks: Any, s: int, window: int | None) -> Any:
    """The mask of one head: causal, at most `window` keys with the query's own."""
    return masks.CausalMask((s, s)) if window is None else masks.LocalMask((s, s), (window - 1, 0), 0)


def _tokamax_kernel(sizes: Tiles, s: int, heads: int, logits: Logits) -> OneRow:
    kernel, masks = _tokamax()
    config = kernel.SplashConfig(
        **_sizes(sizes),
        attn_logits_soft_cap=logits.softcap,
        use_experimental_scheduler=True,
        dq_reduction_steps=3 if s // sizes.keys > 3 else None,  # queries' gradients are added up in threes, in place
        interpret=platform() == "cpu",
    )
    attend = kernel.make_splash_mha_single_device(_mask(masks, s, logits.window), config=config)
    return lambda q, k, v, ids: attend(q, k, v, segment_ids=None if ids is None else kernel.SegmentIds(ids, ids))


def _jax_kernel(sizes: Tiles, s: int, heads: int, logits: Logits) -> OneRow:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([_mask(masks, s, logits.window)] * heads),
        block_sizes=kernel.BlockSizes(**_sizes(sizes), block_q_dq=sizes.queries, block_kv_dq=sizes.keys),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=logits.softcap,
        interpret=platform() == "cpu",
    )
    return lambda q, k, v, ids: attend(q, k, v, None if ids is None else kernel.SegmentIds(ids, ids))


def _sizes(sizes: Tiles) -> dict[str, Any]:
    """The names that both kernels have for the tiles of the forward and the backward pass."""
    one = {"q": sizes.queries, "kv": sizes.keys}
    forward = {f"block_{name}": size for name, size in one.items()}
    backward = {f"block_{name}_dkv": size for name, size in one.items()}
    at_once = dict.fromkeys(("block_kv_compute", "block_kv_dkv_compute"), sizes.keys_at_once)
    return {**forward, **backward, **at_once}
