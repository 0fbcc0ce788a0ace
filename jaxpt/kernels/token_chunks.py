"""A sum over tokens of what the head gives, chunk by chunk, so that no tensor `[B, S, V]` ever exists."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.sharding.platform import platform

Leaves = Mapping[str, "jax.Array | np.ndarray | Leaves"]  # what the unembedding reads of the parameters
LogitsOf = Callable[[Leaves, Leaves, jax.Array], jax.Array]  # (head, rest, x [B, C, D]) -> float32 logits [B, C, V]
Tokens = Mapping[str, jax.Array]  # what else a term reads of each token: [B, S, …], or [B, C, …] of a chunk
# (head, rest, x [B, C, D], tokens) -> the sum over these tokens, float32 scalar, and facts of each token [B, C, …]
TokenSum = Callable[[Leaves, Any, jax.Array, Tokens], tuple[jax.Array, Any]]
# Bytes of float32 logits that exist at once, per device. A chunk adds to the head's whole gradient, so that short ones
# read and write it often: at a vocabulary of 128k, 64 MiB are 128 tokens, whose products take less than that addition.
LOGITS_BYTES = {"gpu": 2 * 2**30}
FEW_LOGITS_BYTES = 64 * 2**20  # where memory is what is short


def summed(
    term: TokenSum, head: Leaves, rest: Any, x: jax.Array, tokens: Tokens, chunk: int | None = None
) -> tuple[jax.Array, Any]:
    """Returns `term` summed over all tokens (to differentiate by `head` and `x`), and its facts per token (not to).

    Over chunks the forward pass of a gradient computes each chunk's gradient on the spot, so that logits are computed
    once: as many products with the head as over the whole row. Batches stay sharded as they are, the rows being whole.

    Args:
        term: a pure function of its arguments; it closes over no array.
        head: parameters that get a gradient.
        rest: a tree of arrays that get none.
        x: `[B, S, D]` last stream, which gets a gradient.
        tokens: arrays `[B, S, …]` that get none.
        chunk: positions of each row at a time, a divisor of S; None or S: all at once.
    """
    if chunk is None or chunk >= x.shape[1]:
        total, facts = term(head, rest, x, tokens)
        return total, jax.lax.stop_gradient(facts)
    return _chunked(term, head, rest, x, tokens, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def _chunked(
    term: TokenSum, head: Leaves, rest: Any, x: jax.Array, tokens: Tokens, chunk: int
) -> tuple[jax.Array, Any]:
    def body(total: jax.Array, piece: tuple[jax.Array, Tokens]) -> tuple[jax.Array, Any]:
        part, facts = term(head, rest, *piece)
        return total + part, facts

    total, facts = jax.lax.scan(body, jnp.zeros((), jnp.float32), _split((x, tokens), chunk))
    return total, _join(facts)


def _forward(
    term: TokenSum, head: Leaves, rest: Any, x: jax.Array, tokens: Tokens, chunk: int
) -> tuple[tuple[jax.Array, Any], tuple[Leaves, jax.Array]]:
    def body(carry: tuple[jax.Array, Leaves], piece: tuple[jax.Array, Tokens]) -> tuple[Any, tuple[Any, jax.Array]]:
        total, d_head = carry
        x_c, tokens_c = piece
        value_of = jax.value_and_grad(lambda head, x_c: term(head, rest, x_c, tokens_c), argnums=(0, 1), has_aux=True)
        (part, facts), (dh, dx) = value_of(head, x_c)
        return (total + part, jax.tree.map(jnp.add, d_head, dh)), (facts, dx)

    zero = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, head))
    (total, d_head), (facts, dx) = jax.lax.scan(body, zero, _split((x, tokens), chunk))
    return (total, _join(facts)), (d_head, _join(dx))


def _backward(
    term: TokenSum, chunk: int, saved: tuple[Leaves, jax.Array], cotangents: tuple[jax.Array, Any]
) -> tuple[Leaves, None, jax.Array, None]:
    d_head, dx = saved
    g = cotangents[0]
    return jax.tree.map(lambda d: d * g.astype(d.dtype), d_head), None, dx * g.astype(dx.dtype), None


_chunked.defvjp(_forward, _backward)


def chunk_length(batch: int, sequence: int, vocab: int, width: int = 0, limit: int | None = None) -> int:
    """Returns the longest divisor of S whose float32 logits `[B, chunk, V]` stay within `limit` bytes, at least 1.

    Each chunk reads the head and adds to its whole gradient, `width` · V numbers. So that this takes no longer than the
    products, a chunk may also have `width` / 4 tokens: its logits are then a quarter of that gradient.

    `batch` counts the rows of one device, `vocab` the entries of all vocabularies whose logits exist at once; without a
    limit it is that of the platform.
    """
    limit = LOGITS_BYTES.get(platform(), FEW_LOGITS_BYTES) if limit is None else limit
    divisors = [c for c in range(1, sequence + 1) if sequence % c == 0]
    return max([c for c in divisors if batch * c * vocab * 4 <= limit or 4 * batch * c <= width], default=1)


def _split(tree: Any, chunk: int) -> Any:
    """`[B, S, …]` to `[S / chunk, B, chunk, …]`."""
    return jax.tree.map(lambda a: jnp.moveaxis(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]), 1, 0), tree)


def _join(tree: Any) -> Any:
    """Inverse of `_split`."""

    def join(a: jax.Array) -> jax.Array:
        a = jnp.moveaxis(a, 0, 1)
        return a.reshape(a.shape[0], -1, *a.shape[3:])

    return jax.tree.map(join, tree)
