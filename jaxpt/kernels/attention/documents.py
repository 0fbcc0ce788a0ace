"""Where the documents of a row are, for kernels that take starts or offsets in place of ids.

A document's tokens stand together in its row, as `jaxpt.data.packing` lays them; padding at the end (id 0) counts as
a document more.
"""

import jax
import jax.numpy as jnp

LARGEST = 1e30  # finite: nothing less it, and it less nothing, becomes NaN


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


def of_rows(x: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Returns `[B, H, S]` of `x [N, H, S]`, whose entry n begins with the n-th document, counted over all rows.

    That is how cuDNN lays out its statistics of packed rows: one document after the other, what follows a document's
    length is not defined, and entries beyond the last document are left over. N must be as many as there are documents.
    """
    number = jnp.cumsum(_begins(segment_ids).reshape(-1)).reshape(segment_ids.shape) - 1
    within = jnp.arange(segment_ids.shape[1]) - starts(segment_ids)
    head = jnp.arange(x.shape[1])
    return x.at[number[:, None], head[None, :, None], within[:, None]].get(mode="clip")


def of_documents(x: jax.Array, segment_ids: jax.Array, most: int) -> jax.Array:
    """Returns `[B * most, H, S]` of `x [B, H, S]`: the other way of `of_rows`.

    What follows a document's length is `LARGEST`: a logit less that has no weight. Rows have `most` documents at most.
    """
    b, s = segment_ids.shape
    at, lengths = offsets(segment_ids, most)
    count = counts(segment_ids)
    number = (jnp.cumsum(count) - count)[:, None] + jnp.arange(most)
    number = jnp.where(lengths >= 0, number, b * most)  # left over: out of range, dropped
    gather = lambda y: jnp.zeros(b * most, jnp.int32).at[number].set(y, mode="drop")  # noqa: E731
    row = gather(jnp.broadcast_to(jnp.arange(b, dtype=jnp.int32)[:, None], number.shape))
    index = jnp.arange(s, dtype=jnp.int32)
    token = gather(at[:, :most])[:, None] + index
    found = x.at[row[:, None, None], jnp.arange(x.shape[1])[None, :, None], token[:, None]].get(mode="clip")
    return jnp.where((index < gather(lengths)[:, None])[:, None], found, LARGEST)
