"""Each row times the matrix of its group: what the experts of a dropless mixture compute."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpt.sharding.platform import platform

TILE = 128  # rows that one tile multiplies at once
Operands = tuple[jax.Array, jax.Array, jax.Array]  # rows, matrices, sizes of the groups


def _ragged_dot(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    return jax.lax.ragged_dot(x, w, sizes, precision=precision)


def _megablox(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """The Pallas kernel for TPUs (on a CPU interpreted, for tests).

    Rows are padded to its tile. It leaves rows after the last group as they were in memory, in the gradient as well:
    masks on both sides make them zero.
    """
    from jax.experimental.pallas.ops.tpu.megablox import gmm

    rows = x.shape[0]
    real = jnp.arange(rows)[:, None] < jnp.sum(sizes)
    padded = jnp.pad(jnp.where(real, x, 0), ((0, -rows % TILE), (0, 0)))
    tiling = (TILE, min(512, w.shape[1]), min(512, w.shape[2]))
    y = gmm(padded, w, sizes, preferred_element_type=x.dtype, tiling=tiling, interpret=platform() == "cpu")[:rows]
    return jnp.where(real, y, 0)


def _dense(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Reference: every row times every matrix, the right one kept; E times the work."""
    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[0])[:, None]
    mine = (row < ends) & (row >= ends - sizes)
    return jnp.einsum("mk,ekn,me->mn", x, w, mine.astype(x.dtype), precision=precision)


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
    """A loop over tiles of rows of one group; work follows the real sizes (XLA's CPU ragged_dot multiplies E times)."""
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

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "ragged_dot": _ragged_dot,
    "megablox": _megablox,
    "tiled": _tiled,
    "dense": _dense,
}


def grouped_matmul(
    x: jax.Array,
    w: jax.Array,
    sizes: jax.Array,
    *,
    implementation: str = "auto",
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Returns `[M, N]`: the first `sizes[0]` rows of x times `w[0]`, the next `sizes[1]` times `w[1]`, and so on.

    "auto" is the tiled loop on CPU, the Pallas kernel on TPU where both widths are multiples of 128 and the dtype is
    bfloat16, and `jax.lax.ragged_dot` elsewhere.

    Args:
        x: `[M, K]`, rows sorted by group.
        w: `[E, K, N]`.
        sizes: rows of each group, `[E]` int32; rows after their sum give zero.
        implementation: a name from `IMPLEMENTATIONS`, or "auto".
        precision: of the products.
    """
    if implementation == "auto":
        where = platform()
        pallas = where == "tpu" and x.dtype == jnp.bfloat16 and w.shape[1] % 128 == w.shape[2] % 128 == 0
        implementation = "tiled" if where == "cpu" else "megablox" if pallas else "ragged_dot"
    return IMPLEMENTATIONS[implementation](x, w, sizes.astype(jnp.int32), precision)
