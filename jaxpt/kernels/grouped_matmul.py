"""Each row times the matrix of its group: what the experts of a dropless mixture compute."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpt.sharding.platform import platform

TILE = 128  # rows that one tile multiplies at once


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


def _tiles(rows: int, sizes: jax.Array, tile: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns each tile's group, first row and end of its group (`[T]` each), and how many of the T tiles are used.

    T = M // tile + E bounds Σ ceil(size / tile) whatever the sizes are.
    """
    groups = sizes.shape[0]
    per = -(-sizes // tile)
    last = jnp.cumsum(per)
    t = jnp.arange(rows // tile + groups)
    group = jnp.minimum(jnp.searchsorted(last, t, side="right"), groups - 1)
    ends = jnp.cumsum(sizes)
    first = ends[group] - sizes[group] + (t - (last - per)[group]) * tile
    return group, first, ends[group], last[-1]


def _tile_length(rows: int, groups: int) -> int:
    return max(8, min(TILE, -(-rows // groups)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _tiled(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """A loop over tiles of rows of one group; work follows the real sizes (XLA's CPU ragged_dot multiplies E times)."""
    rows = x.shape[0]
    tile = _tile_length(rows, len(w))
    group, first, end, used = _tiles(rows, sizes, tile)
    padded = jnp.pad(x, ((0, tile), (0, 0)))

    def body(t: jax.Array, out: jax.Array) -> jax.Array:
        piece = jax.lax.dynamic_slice_in_dim(padded, first[t], tile)
        y = jnp.dot(piece, jax.lax.dynamic_index_in_dim(w, group[t], keepdims=False), precision=precision)
        # rows past the group's end are overwritten by the next group's first tile
        y = jnp.where(first[t] + jnp.arange(tile)[:, None] < end[t], y, 0)
        return jax.lax.dynamic_update_slice_in_dim(out, y, first[t], 0)

    out = jnp.zeros((rows + tile, w.shape[2]), x.dtype)
    return jax.lax.fori_loop(0, used, body, out)[:rows]


def _tiled_forward(x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None):
    return _tiled(x, w, sizes, precision), (x, w, sizes)


def _tiled_backward(precision: jax.lax.Precision | None, saved: tuple, dy: jax.Array):
    x, w, sizes = saved
    rows = x.shape[0]
    tile = _tile_length(rows, len(w))
    group, first, end, used = _tiles(rows, sizes, tile)
    padded, dy_padded = (jnp.pad(a, ((0, tile), (0, 0))) for a in (x, dy))

    def body(t: jax.Array, dw: jax.Array) -> jax.Array:
        a = jax.lax.dynamic_slice_in_dim(padded, first[t], tile)
        a = jnp.where(first[t] + jnp.arange(tile)[:, None] < end[t], a, 0)
        b = jax.lax.dynamic_slice_in_dim(dy_padded, first[t], tile)
        part = jnp.einsum("mk,mn->kn", a, b, precision=precision, preferred_element_type=jnp.float32)
        return dw.at[group[t]].add(part)

    dw = jax.lax.fori_loop(0, used, body, jnp.zeros(w.shape, jnp.float32))
    return _tiled(dy, jnp.swapaxes(w, 1, 2), sizes, precision), dw.astype(w.dtype), None


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
