"""Where the documents of a row are, for kernels that take starts or offsets in place of ids.

A document's tokens stand together in its row, as `jaxpt.data.packing` lays them; padding at the end (id 0) counts as
a document more.
"""

import jax
import jax.numpy as jnp


def _begins(segment_ids: jax.Array) -> jax.Array:
    return jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)


def starts(segment_ids: jax.Array) -> jax.Array:
    """Returns `[B, S]` int32: the index at which the document of each token begins."""
    index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(_begins(segment_ids), index, 0), axis=1)


def counts(segment_ids: jax.Array) -> jax.Array:
    """Returns `[B]` int32: how many documents each row has."""
    return _begins(segment_ids).sum(axis=1, dtype=jnp.int32)


def offsets(segment_ids: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Returns `[B, most + 1]` and `[B, most]` int32: where each document begins, then S, and each one's length.

    Entries that are left over are -1. Rows must have `most` documents at most.
    """
    s = segment_ids.shape[1]
    at = jnp.sort(jnp.where(_begins(segment_ids), jnp.arange(s, dtype=jnp.int32), s), axis=1)[:, : most + 1]
    at = jnp.pad(at, ((0, 0), (0, most + 1 - at.shape[1])), constant_values=s)
    count, entry = counts(segment_ids)[:, None], jnp.arange(most + 1)[None]
    lengths = jnp.where(entry[:, :most] < count, at[:, 1:] - at[:, :-1], -1)
    return jnp.where(entry <= count, at, -1), lengths
