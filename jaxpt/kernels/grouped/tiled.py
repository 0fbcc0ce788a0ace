"""A loop over tiles of rows of one group: work follows the real sizes (XLA's CPU `ragged_dot` multiplies E times)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpt.kernels.grouped.call import GroupedCall

TILE = 128  # rows
Operands = tuple[jax.Array, jax.Array, jax.Array]  # rows, matrices, sizes of the groups


def refuses(call: GroupedCall) -> str | None:
    """Takes every call."""
    return None


def run(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.grouped.dispatch.grouped_matmul` defines it."""
    return _tiled(x, w, sizes, precision)


def _lengths(rows: int, groups: int) -> tuple[int, int]:
    """Rows of a long and of a short tile: long ones while a group has as many, short ones for what is left of it."""
    return min(4 * TILE, rows), max(8, min(TILE // 2, rows // groups))


def _fold_tiles(
    tile: Callable[..., jax.Array], first: jax.Array, size: jax.Array, lengths: tuple[int, int], x: jax.Array
) -> jax.Array:
    """Folds `tile(length, first row, x)` over the tiles of one group; only the last may reach past its end."""
    long, short = lengths
    many = size // long
    rest = first + many * long
    x = jax.lax.fori_loop(0, many, lambda t, x: tile(long, first + t * long, x), x)
    return jax.lax.fori_loop(0, -(-(size - many * long) // short), lambda t, x: tile(short, rest + t * short, x), x)


def _fold_groups(group: Callable[..., jax.Array], sizes: jax.Array, x: jax.Array) -> jax.Array:
    """Folds `group(g, x)` over the groups that have rows, in order."""
    used = jnp.argsort(sizes == 0, stable=True)
    return jax.lax.fori_loop(0, jnp.sum(sizes > 0), lambda i, x: group(used[i], x), x)


def _looped(
    x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None, transposed: bool = False
) -> jax.Array:
    """The loop of `_tiled`; `transposed` multiplies by each matrix's transpose."""
    rows, lengths = x.shape[0], _lengths(x.shape[0], len(w))
    padded = jnp.pad(x, ((0, lengths[1]), (0, 0)))
    ends = jnp.cumsum(sizes)
    inner = (((1,), (1 if transposed else 0,)), ((), ()))

    def group(g: jax.Array, out: jax.Array) -> jax.Array:
        matrix = jax.lax.dynamic_index_in_dim(w, g, keepdims=False)

        def tile(length: int, first: jax.Array, out: jax.Array) -> jax.Array:
            piece = jax.lax.dynamic_slice_in_dim(padded, first, length)
            y = jax.lax.dot_general(piece, matrix, inner, precision=precision)
            return jax.lax.dynamic_update_slice_in_dim(out, y, first, 0)  # rows past the end: the next group's turn

        return _fold_tiles(tile, ends[g] - sizes[g], sizes[g], lengths, out)

    width = w.shape[1 if transposed else 2]
    out = _fold_groups(group, sizes, jnp.zeros((rows + lengths[1], width), x.dtype))
    nothing = jnp.zeros((lengths[1], width), x.dtype)
    return jax.lax.dynamic_update_slice_in_dim(out, nothing, ends[-1], 0)[:rows]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _tiled(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    return _looped(x, w, sizes, precision)


def _tiled_forward(
    x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None
) -> tuple[jax.Array, Operands]:
    return _tiled(x, w, sizes, precision), (x, w, sizes)


def _tiled_backward(
    precision: jax.lax.Precision | None, saved: Operands, dy: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x, w, sizes = saved
    lengths = _lengths(x.shape[0], len(w))
    padded, dy_padded = (jnp.pad(a, ((0, lengths[1]), (0, 0))) for a in (x, dy))
    ends = jnp.cumsum(sizes)

    def group(g: jax.Array, dw: jax.Array) -> jax.Array:
        def tile(length: int, first: jax.Array, total: jax.Array) -> jax.Array:
            a, b = (jax.lax.dynamic_slice_in_dim(m, first, length) for m in (padded, dy_padded))
            if length == lengths[1]:
                a = jnp.where(first + jnp.arange(length)[:, None] < ends[g], a, 0)
            return total + jnp.einsum("mk,mn->kn", a, b, precision=precision, preferred_element_type=jnp.float32)

        one = _fold_tiles(tile, ends[g] - sizes[g], sizes[g], lengths, jnp.zeros(w.shape[1:], jnp.float32))
        return jax.lax.dynamic_update_index_in_dim(dw, one, g, 0)

    dw = _fold_groups(group, sizes, jnp.zeros(w.shape, jnp.float32))
    return _looped(dy, w, sizes, precision, transposed=True), dw.astype(w.dtype), None


_tiled.defvjp(_tiled_forward, _tiled_backward)
