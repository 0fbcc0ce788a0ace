"""Hopper: the gradients of attention over packed rows, by two Pallas kernels that skip hidden documents.

FlashAttention-2's backward pass (Dao 2023, algorithm 2) in two kernels, so that nothing is added up in memory by
several programs and the result does not depend on their order: one program has a tile of queries and visits the keys
that these see, another has a tile of keys and visits the queries, of every head of its group, that see these. What is
visited is known from the first key that each query sees (`bounds`): a row costs what its visible pairs cost, up to a
tile's edge. Warpgroups share what a third one fetches, as tokamax's kernels do (Mosaic GPU's pipeline); weights go
through shared memory into the products, which Pallas' interpreter on a CPU understands, too.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxpt.kernels.attention.documents import LARGEST
from jaxpt.kernels.attention.passes import Gradients

BLOCK = 64  # rows of a warpgroup's products, and what is fetched at a time
WARPGROUPS = 2
TILE = BLOCK * WARPGROUPS  # of a program
STAGES = 2  # fetched ahead
HEAD_DIMS = (64, 128)  # whose tiles and sums fit a multiprocessor's shared memory and registers


def bounds(first_keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the blocks that programs visit, `[B, S / TILE]` int32 each.

    Args:
        first_keys: `[B, S]` int32, S a multiple of `TILE`: the first key that each query sees; it does not decrease
            along a row. A query sees all keys from there to its own index.

    Returns:
        The first block of keys that a tile of queries visits, the last being that of its own end; and the block after
        the last block of queries that a tile of keys visits, the first being that of its own begin.
    """
    tiles = first_keys.shape[1] // TILE
    ends = jnp.arange(1, tiles + 1) * TILE
    seeing = (first_keys[:, None] < ends[:, None]).sum(-1, dtype=jnp.int32)  # queries up to the last that sees a tile
    return first_keys[:, ::TILE] // BLOCK, (seeing + BLOCK - 1) // BLOCK


def gradients(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    first_keys: jax.Array,
    out: jax.Array,
    log_sum: jax.Array,
    d_out: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    interpret: Any = None,
) -> Gradients:
    """Returns the gradients of q, k and v, in their shapes and dtypes.

    Args:
        q: `[B, S, H, h]`, bfloat16 or float16, h of `HEAD_DIMS`.
        k: `[B, S, K, h]`, H a multiple of K.
        v: `[B, S, K, h]`.
        first_keys: `[B, S]` int32, see `bounds`.
        out: `[B, S, H, h]`, attention's output.
        log_sum: `[B, H, S]` float32, log of the softmax's denominators.
        d_out: `[B, S, H, h]`, the output's gradient.
        scale: of dot products.
        softcap: of logits, or None.
        interpret: parameters of Pallas' interpreter for Mosaic GPU, None on a GPU.
    """
    s = q.shape[1]
    pad = -s % TILE
    share = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    if pad:  # queries without weight, which see themselves
        q, k, v, d_out = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v, d_out))
        log_sum = jnp.pad(log_sum, ((0, 0), (0, 0), (0, pad)), constant_values=LARGEST)
        share = jnp.pad(share, ((0, 0), (0, 0), (0, pad)))
        first_keys = jnp.pad(first_keys, ((0, 0), (0, pad)), constant_values=s)
    first, last = bounds(first_keys)
    operands = q, k, v, d_out.astype(q.dtype), log_sum * math.log2(math.e), share, first_keys
    dq = _kernel(_of_queries, q, k, (q,), scale, softcap, interpret)(first, *operands)[0]
    dk, dv = _kernel(_of_keys, q, k, (k, v), scale, softcap, interpret)(last, *operands)
    return dq[:, :s], dk[:, :s], dv[:, :s]


def _mosaic_gpu() -> Any:
    """Pallas' module, whose functions change from version to version."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu


def _kernel(
    body: Any,
    q: jax.Array,
    k: jax.Array,
    results: tuple[jax.Array, ...],
    scale: float,
    softcap: float | None,
    interpret: Any,
) -> Any:
    """A kernel whose programs have a tile of one row and head of `results`, two such tiles in shared memory, and place
    for what goes into the product of each result.
    """
    plgpu = _mosaic_gpu()
    b, s, heads, hd = results[0].shape
    tile = functools.partial(plgpu.SMEM, dtype=q.dtype, transforms=_transforms())
    return plgpu.kernel(
        functools.partial(body, group=q.shape[2] // k.shape[2], scale=scale, softcap=softcap),
        out_type=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results),
        scratch_types=[
            *[tile((WARPGROUPS, BLOCK, hd))] * 2,
            *[tile((WARPGROUPS, BLOCK, BLOCK))] * len(results),
            plgpu.Barrier(num_barriers=WARPGROUPS, num_arrivals=2),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        grid=(b, heads, s // TILE),
        grid_names=("row", "attention_head", "tile"),
        num_threads=WARPGROUPS + 1,
        thread_name="warpgroup",
        kernel_name=f"attention_gradient{body.__name__}",
        interpret=interpret,
    )


class _Given(NamedTuple):
    """The arguments in global memory, as `gradients` has them; `log2_sum` is the base-2 logarithm."""

    q: Any
    k: Any
    v: Any
    d_out: Any
    log2_sum: Any
    share: Any
    first_keys: Any


def _transforms() -> tuple[Any, ...]:
    """How 16-bit matrices lie in shared memory for products."""
    plgpu = _mosaic_gpu()
    return plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)


def _pipeline(visit: Any, compute: Any, grid: Any, specs: Any) -> Any:
    return _mosaic_gpu().emit_pipeline_warp_specialized(
        visit,
        grid=grid,
        in_specs=specs,
        max_concurrent_steps=STAGES,
        num_compute_wgs=WARPGROUPS,
        memory_registers=40,
        wg_axis="warpgroup",
        compute_context=compute,
    )


def _place() -> tuple[Any, Any, Any, Any, Any]:
    """Row, head and tile of this program, its warpgroup, and the first position of the warpgroup's rows."""
    row, head, tile, wg = (lax.axis_index(x) for x in ("row", "attention_head", "tile", "warpgroup"))
    return row, head, tile, wg, tile * TILE + wg * BLOCK


def _write(parts: Sequence[tuple[jax.Array, Any, Any]]) -> None:
    """Writes values to global memory by way of shared memory."""
    plgpu = _mosaic_gpu()
    for value, smem, _ in parts:
        smem[...] = value.astype(smem.dtype)
    plgpu.commit_smem()
    for _, smem, gmem in parts:
        plgpu.copy_smem_to_gmem(smem, gmem)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _square(x: jax.Array, axis: int) -> jax.Array:
    """A number per row (axis 0) or column (1), for each entry of a block."""
    return lax.broadcast_in_dim(x, (BLOCK, BLOCK), [axis])


def _positions(begin: Any, axis: int) -> jax.Array:
    """The positions along an axis of a block, for each entry of it."""
    plgpu = _mosaic_gpu()
    return begin + plgpu.broadcasted_iota(jnp.int32, (BLOCK, BLOCK), axis, layout=plgpu.Layout.WGMMA)


def _weights(
    dots: jax.Array, log2_sum: jax.Array, seen: jax.Array, scale: float, softcap: float | None
) -> tuple[jax.Array, jax.Array]:
    """Returns softmax's weights of a block, and these times the slope of the softcap; all of the block's shape."""
    if softcap is None:
        weights = jnp.where(seen, jnp.exp2(dots * (scale * math.log2(math.e)) - log2_sum), 0.0)
        return weights, weights
    bent = jnp.tanh(dots * (scale / softcap))
    weights = jnp.where(seen, jnp.exp2(bent * (softcap * math.log2(math.e)) - log2_sum), 0.0)
    return weights, weights * (1.0 - bent * bent)


def _of_queries(first_gmem: Any, *refs: Any, group: int, scale: float, softcap: float | None) -> None:
    """The gradient of a tile of queries: keys from the first block that one of them sees to the diagonal."""
    from jax.experimental import pallas as pl

    plgpu = _mosaic_gpu()
    given = _Given(*refs[:7])
    dq_gmem, q_smems, d_out_smems, d_smems, barriers = refs[7:]
    row, head, tile, wg, begin = _place()
    first, end, mine = first_gmem[row, tile], (tile + 1) * WARPGROUPS, pl.ds(begin, BLOCK)
    q_smem, d_out_smem, d_smem, barrier = (x.at[wg] for x in (q_smems, d_out_smems, d_smems, barriers))
    hd, accumulator = given.q.shape[-1], plgpu.ACC((BLOCK, BLOCK), jnp.float32)

    def compute(pipeline: Any) -> None:
        plgpu.copy_gmem_to_smem(given.q.at[row, mine, head], q_smem, barrier)
        plgpu.copy_gmem_to_smem(given.d_out.at[row, mine, head], d_out_smem, barrier)
        of_rows = functools.partial(plgpu.load, layout=plgpu.Layout.WGMMA.reduce(1), optimized=False)
        numbers = [of_rows(x.at[row, head, mine]) for x in (given.log2_sum, given.share)]
        numbers.append(of_rows(given.first_keys.at[row, mine]))
        plgpu.barrier_wait(barrier)

        def added_up(total: Any) -> jax.Array:
            pipeline((total, *numbers))
            return total[...]

        dq = pl.run_scoped(added_up, plgpu.ACC((BLOCK, hd), jnp.float32))
        _write([(dq * scale, q_smem, dq_gmem.at[row, mine, head])])

    def visit(index: Any, k_smem: Any, v_smem: Any, carry: Any) -> Any:
        total, log2_sum, share, first_keys = carry
        key, query = _positions((first + index[0]) * BLOCK, 1), _positions(begin, 0)
        seen = (key <= query) & (key >= _square(first_keys, 0))

        def products(dots: Any, d_weights: Any) -> tuple[jax.Array, jax.Array]:
            plgpu.wgmma(dots, q_smem, k_smem.T)
            plgpu.wgmma(d_weights, d_out_smem, v_smem.T)
            here = plgpu.wgmma_accumulator_load(dots, wait_n=1)
            return _weights(here, _square(log2_sum, 0), seen, scale, softcap)[1], d_weights[...]

        weights, d_weights = pl.run_scoped(products, accumulator, accumulator)
        d_smem[...] = (weights * (d_weights - _square(share, 0))).astype(d_smem.dtype)
        plgpu.commit_smem()
        plgpu.wgmma(total, d_smem, k_smem)
        plgpu.wgmma_wait(0)
        return carry

    place = lambda i: (row, first + i, head // group, 0)  # noqa: E731
    keys = plgpu.BlockSpec((None, BLOCK, None, hd), place, transforms=_transforms())
    _pipeline(visit, compute, (end - first,), [keys, keys])(given.k, given.v)


def _of_keys(last_gmem: Any, *refs: Any, group: int, scale: float, softcap: float | None) -> None:
    """The gradients of a tile of keys and values: queries from the diagonal to the last block that sees one of them."""
    from jax.experimental import pallas as pl

    plgpu = _mosaic_gpu()
    given = _Given(*refs[:7])
    dk_gmem, dv_gmem, *smems = refs[7:]
    row, head, tile, wg, begin = _place()
    first, end, mine = tile * WARPGROUPS, last_gmem[row, tile], pl.ds(begin, BLOCK)
    k_smem, v_smem, weights_smem, d_smem, barrier = (x.at[wg] for x in smems)
    hd, accumulator = given.k.shape[-1], plgpu.ACC((BLOCK, BLOCK), jnp.float32)

    def compute(pipeline: Any) -> None:
        plgpu.copy_gmem_to_smem(given.k.at[row, mine, head], k_smem, barrier)
        plgpu.copy_gmem_to_smem(given.v.at[row, mine, head], v_smem, barrier)
        plgpu.barrier_wait(barrier)

        def added_up(dk: Any, dv: Any) -> tuple[jax.Array, jax.Array]:
            pipeline((dk, dv))
            return dk[...], dv[...]

        dk, dv = pl.run_scoped(added_up, *[plgpu.ACC((BLOCK, hd), jnp.float32)] * 2)
        places = dk_gmem.at[row, mine, head], dv_gmem.at[row, mine, head]
        _write([(dk * scale, k_smem, places[0]), (dv, v_smem, places[1])])

    def visit(index: Any, q_smem: Any, d_out_smem: Any, log2_sum: Any, share: Any, first_keys: Any, carry: Any) -> Any:
        dk, dv = carry
        of_columns = lambda ref: _square(plgpu.load(ref, layout=plgpu.Layout.WGMMA.reduce(0)), 1)  # noqa: E731
        key, query = _positions(begin, 0), _positions((first + index[0]) * BLOCK, 1)
        seen = (key <= query) & (key >= of_columns(first_keys))

        def weights_of(dots: Any) -> tuple[jax.Array, jax.Array]:
            plgpu.wgmma(dots, k_smem, q_smem.T)
            return _weights(dots[...], of_columns(log2_sum), seen, scale, softcap)

        weights, sloped = pl.run_scoped(weights_of, accumulator)
        weights_smem[...] = weights.astype(weights_smem.dtype)
        plgpu.commit_smem()

        def gradient_of_weights(d_weights: Any) -> jax.Array:
            plgpu.wgmma(d_weights, v_smem, d_out_smem.T)
            plgpu.wgmma(dv, weights_smem, d_out_smem)
            return plgpu.wgmma_accumulator_load(d_weights, wait_n=1)

        d_weights = pl.run_scoped(gradient_of_weights, accumulator)
        d_smem[...] = (sloped * (d_weights - of_columns(share))).astype(d_smem.dtype)
        plgpu.commit_smem()
        plgpu.wgmma(dk, d_smem, q_smem)
        plgpu.wgmma_wait(0)
        return carry

    of_head = lambda i, j: (row, first + i, head * group + j, 0)  # noqa: E731
    queries = plgpu.BlockSpec((None, BLOCK, None, hd), of_head, transforms=_transforms())
    numbers = plgpu.BlockSpec((None, None, BLOCK), lambda i, j: (row, head * group + j, first + i))
    first_keys = plgpu.BlockSpec((None, BLOCK), lambda i, j: (row, first + i))
    pipeline = _pipeline(visit, compute, (end - first, group), [queries, queries, numbers, numbers, first_keys])
    pipeline(given.q, given.d_out, given.log2_sum, given.share, given.first_keys)
