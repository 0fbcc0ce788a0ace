"""Attention in blocks, in plain XLA: what the mask hides is not computed, and memory is linear in S.

An online softmax (Milakov & Gimelshein 2018; Dao et al. 2022, algorithm 1) over pairs of a block of queries and a
block of keys: for each block of queries, from the first block that its documents and its window reach to the
diagonal. The backward pass visits the same pairs once and computes their logits again.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.passes import Gradients, Passes, attend
from jaxpt.kernels.attention.sharded import per_shard
from jaxpt.kernels.attention.xla import MASKED
from jaxpt.sharding.platform import platform

BLOCKS = {"cpu": 128, "gpu": 512, "tpu": 512}  # positions of a block: the fastest of those measured

T = TypeVar("T")


@dataclass(frozen=True)
class _Tiling:
    """`count` blocks of `block` positions to a row; `follow`: visits follow the data, row by row, else all rows at once
    make those visits that documents do not shorten, so that the compiler knows their number.
    """

    block: int
    count: int
    follow: bool


class _Blocks(NamedTuple):
    """The arguments in blocks: q `[N, b, K, G · block, h]`, k and v `[N, b, K, block, h]`, ids `[N, b, block]` or None.

    `first` is as `_first_blocks` returns it, None where visits do not follow the data.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    ids: jax.Array | None
    first: jax.Array | None


def refuses(call: Call) -> str | None:
    """Returns None: it refuses nothing."""
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


def _tiling(length: int) -> _Tiling:
    block = min(BLOCKS[platform()], length)
    return _Tiling(block, math.ceil(length / block), follow=platform() != "gpu")


def _cut(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, logits: Logits, tiling: _Tiling
) -> _Blocks:
    b, s, h, hd = q.shape
    kv = k.shape[2]
    cut = functools.partial(_into_blocks, tiling=tiling)
    ids = None if segment_ids is None else segment_ids.astype(jnp.int32)
    first = _first_blocks(ids, b, logits.window, tiling) if tiling.follow else None
    if ids is not None:
        ids = cut(ids.reshape(b, s, 1, 1, 1))[:, :, 0, :, 0]  # [N, b, block]
    return _Blocks(cut(q.reshape(b, s, kv, h // kv, hd)), cut(k[:, :, :, None]), cut(v[:, :, :, None]), ids, first)


def _into_blocks(x: jax.Array, tiling: _Tiling) -> jax.Array:
    """`[B, S, K, G, h]` to `[N, b, K, G · block, h]`: N = B · count and b = 1, or N = count and b = B."""
    b, s, kv, g, hd = x.shape
    x = jnp.pad(x, ((0, 0), (0, tiling.count * tiling.block - s), (0, 0), (0, 0), (0, 0)))
    x = x.reshape(b, tiling.count, tiling.block, kv, g, hd).transpose(0, 1, 3, 4, 2, 5)
    if tiling.follow:
        return x.reshape(b * tiling.count, 1, kv, g * tiling.block, hd)
    return x.swapaxes(0, 1).reshape(tiling.count, b, kv, g * tiling.block, hd)


def _from_blocks(x: jax.Array, like: jax.Array, tiling: _Tiling) -> jax.Array:
    """The other way, `[N, b, K, G · block, h]` to `[B, S, K · G, h]`, B, S and K · G being those of `like`."""
    b, s, heads = like.shape[:3]
    kv, hd = x.shape[2], x.shape[-1]
    if tiling.follow:
        x = x.reshape(b, tiling.count, kv, heads // kv, tiling.block, hd)
    else:
        x = x.reshape(tiling.count, b, kv, heads // kv, tiling.block, hd).swapaxes(0, 1)
    return x.transpose(0, 1, 4, 2, 3, 5).reshape(b, tiling.count * tiling.block, heads, hd)[:, :s]


def _reach(window: int | None, tiling: _Tiling) -> np.ndarray:
    """Returns `[count]` int32: for each block of queries the first block of keys that the window reaches."""
    if window is None:
        return np.zeros(tiling.count, np.int32)
    return np.maximum(np.arange(tiling.count, dtype=np.int32) * tiling.block - window + 1, 0) // tiling.block


def _first_blocks(ids: jax.Array | None, b: int, window: int | None, tiling: _Tiling) -> jax.Array:
    """Returns `[N]` int32: for each block of queries the first block of keys that any of them sees.

    Two blocks may share a document where the ranges of their ids overlap; id 0, padding, stands apart, as it follows
    the largest.
    """
    n, block = tiling.count, tiling.block
    index, reach = np.arange(n), _reach(window, tiling)
    if ids is None:
        return jnp.tile(reach, b)
    ids = jnp.pad(ids, ((0, 0), (0, n * block - ids.shape[1])), mode="edge").reshape(b, n, block)
    big = jnp.iinfo(jnp.int32).max
    low, high = jnp.where(ids == 0, big, ids).min(-1), jnp.where(ids == 0, -big, ids).max(-1)
    padded = (ids == 0).any(-1)
    of_queries, of_keys = (lambda x: x[:, :, None]), (lambda x: x[:, None, :])
    overlap = (of_queries(low) <= of_keys(high)) & (of_keys(low) <= of_queries(high))
    overlap |= of_queries(padded) & of_keys(padded)
    overlap &= (index[None, :] >= reach[:, None]) & (index[None, :] <= index[:, None])
    found: jax.Array = jnp.where(overlap, index, n).min(-1).astype(jnp.int32)
    return found.reshape(b * n)


def _over_pairs(
    first: jax.Array | None,
    window: int | None,
    tiling: _Tiling,
    visit: Callable[[jax.Array, jax.Array, T], T],
    state: T,
) -> T:
    """Folds `visit(query block, key block, state)` over the pairs from `first` to the diagonal, in order.

    Without `first` from where the window reaches, all rows at once: so often as is known when this is compiled.
    """
    reach = _reach(window, tiling)
    starts = jnp.asarray(reach) if first is None else first
    blocks = starts.shape[0]

    def step(carry: tuple[jax.Array, jax.Array, T]) -> tuple[jax.Array, jax.Array, T]:
        a, j, state = carry
        state = visit(a, a - a % tiling.count + j, state)
        done = j == a % tiling.count
        following = jax.lax.dynamic_index_in_dim(starts, jnp.minimum(a + 1, blocks - 1), keepdims=False)
        return jnp.where(done, a + 1, a), jnp.where(done, following, j + 1), state

    begin = jnp.zeros((), jnp.int32), starts[0], state
    if first is not None:
        return jax.lax.while_loop(lambda carry: carry[0] < blocks, step, begin)[2]
    total = int(np.sum(np.arange(tiling.count) - reach + 1))
    return jax.lax.fori_loop(0, total, lambda _, carry: step(carry), begin)[2]


def _at(x: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def _put(x: jax.Array, value: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, value, i, 0)


def _dot(spec: str, a: jax.Array, b: jax.Array, logits: Logits) -> jax.Array:
    return jnp.einsum(spec, a, b, precision=logits.precision, preferred_element_type=jnp.float32)


def _block_logits(
    cut: _Blocks, a: jax.Array, c: jax.Array, logits: Logits, tiling: _Tiling
) -> tuple[jax.Array, jax.Array]:
    """Returns float32 logits `[b, K, G · block, block]` of query block a and key block c, and which of them count."""
    block = tiling.block
    x = _dot("bkqh,bkth->bkqt", _at(cut.q, a), _at(cut.k, c), logits) * logits.scale
    if logits.softcap is not None:
        x = logits.softcap * jnp.tanh(x / logits.softcap)
    behind = (a - c) * block + jnp.arange(block)[:, None] - jnp.arange(block)[None, :]  # query's index less the key's
    seen = behind >= 0
    if logits.window is not None:
        seen &= behind < logits.window
    seen = seen[None]
    if cut.ids is not None:
        seen &= _at(cut.ids, a)[:, :, None] == _at(cut.ids, c)[:, None, :]
    groups = x.shape[2] // block
    return x, jnp.tile(seen, (1, groups, 1))[:, None]


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits
) -> tuple[jax.Array, jax.Array]:
    """The forward pass, see `jaxpt.kernels.attention.passes.Forward`."""
    tiling = _tiling(q.shape[1])
    cut = _cut(q, k, v, segment_ids, logits, tiling)

    def visit(
        a: jax.Array, c: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, seen = _block_logits(cut, a, c, logits, tiling)
        top, total, out = (_at(y, a) for y in state)
        new = jnp.maximum(top, jnp.where(seen, x, MASKED).max(-1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(x - new), 0)
        shrink = jnp.exp(top - new)
        total = total * shrink + weights.sum(-1, keepdims=True)
        out = out * shrink + _dot("bkqt,bkth->bkqh", weights.astype(v.dtype), _at(cut.v, c), logits)
        return _put(state[0], new, a), _put(state[1], total, a), _put(state[2], out, a)

    row = jnp.zeros((*cut.q.shape[:-1], 1), jnp.float32)
    begin = row + MASKED, row, jnp.zeros(cut.q.shape, jnp.float32)
    top, total, out = _over_pairs(cut.first, logits.window, tiling, visit, begin)
    log_sum = _from_blocks(top + jnp.log(total), q, tiling)[..., 0].swapaxes(1, 2)
    return _from_blocks((out / total).astype(q.dtype), q, tiling), log_sum


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
    b, s, h, _ = q.shape
    kv, tiling = k.shape[2], _tiling(s)
    cut = _cut(q, k, v, segment_ids, logits, tiling)
    of_queries = lambda x: _into_blocks(x.reshape(b, s, kv, h // kv, -1), tiling)  # noqa: E731
    d_out, log_sum = of_queries(d_out), of_queries(log_sum.swapaxes(1, 2))
    share = jnp.sum(d_out.astype(jnp.float32) * of_queries(out).astype(jnp.float32), axis=-1, keepdims=True)

    def visit(
        a: jax.Array, c: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, seen = _block_logits(cut, a, c, logits, tiling)
        weights = jnp.where(seen, jnp.exp(x - _at(log_sum, a)), 0)
        d = _at(d_out, a)
        d_x = weights * (_dot("bkqh,bkth->bkqt", d, _at(cut.v, c), logits) - _at(share, a)) * logits.scale
        if logits.softcap is not None:
            d_x = d_x * (1 - jnp.square(x / logits.softcap))
        d_x = d_x.astype(q.dtype)
        dq, dk, dv = state
        dq = _put(dq, _at(dq, a) + _dot("bkqt,bkth->bkqh", d_x, _at(cut.k, c), logits), a)
        dk = _put(dk, _at(dk, c) + _dot("bkqt,bkqh->bkth", d_x, _at(cut.q, a), logits), c)
        dv = _put(dv, _at(dv, c) + _dot("bkqt,bkqh->bkth", weights.astype(d.dtype), d, logits), c)
        return dq, dk, dv

    zeros = (
        jnp.zeros(cut.q.shape, jnp.float32),
        jnp.zeros(cut.k.shape, jnp.float32),
        jnp.zeros(cut.v.shape, jnp.float32),
    )
    dq, dk, dv = _over_pairs(cut.first, logits.window, tiling, visit, zeros)
    return (
        _from_blocks(dq.astype(q.dtype), q, tiling),
        _from_blocks(dk.astype(k.dtype), k, tiling),
        _from_blocks(dv.astype(v.dtype), v, tiling),
    )


PASSES = Passes(forward, backward)
