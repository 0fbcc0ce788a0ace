"""Keys and values of what many rows begin with, computed once and in chunks."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.generation.attend import Stored
from jaxpt.generation.passes import PADDING, Prefix, TokenRows, rows_of, run
from jaxpt.generation.shapes import rounded
from jaxpt.generation.weights import LaidOutWeights
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig

CHUNK = 512  # tokens that go through the model at once: bounds the memory of attention


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Returns how many tokens `a` and `b` begin with alike."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


class Prefixes:
    """Computes prefixes, going on from the last one where the next begins with the same tokens."""

    def __init__(self, config: ModelConfig, weights: LaidOutWeights, compute: Compute):
        """Takes a model laid out."""
        self.config, self.weights, self.compute = config, weights, compute
        self._tokens: list[int] = []
        self._stored: tuple[Stored, ...] = ()

    def of(self, tokens: Sequence[int]) -> Prefix:
        """Returns the prefix of some tokens, at least one."""
        tokens = list(tokens)
        room = rounded(len(tokens), 64)
        done = common_length(self._tokens, tokens) if self._stored else 0
        stored = _with_room(self._stored, room) if done else empty(self.config, self.compute, room)
        while done < len(tokens):
            part = tokens[done : done + CHUNK]
            before = Prefix(stored, jnp.asarray(done, jnp.int32)) if done else None
            _, new = run(self.config, self.weights, self.compute, one_row(part, done), before)
            stored = appended(stored, new, done)
            done += len(part)
        self._tokens, self._stored = tokens, stored
        return Prefix(stored, jnp.asarray(len(tokens), jnp.int32))


def empty(config: ModelConfig, compute: Compute, room: int) -> tuple[Stored, ...]:
    """Returns zeros for each layer, with room for `room` tokens."""
    shape = (config.kv_heads, room, config.head_dim)
    zeros = [jnp.zeros(shape, compute.jnp_dtype) for _ in range(2 * len(config.layers))]
    return tuple(Stored(*pair) for pair in zip(zeros[::2], zeros[1::2]))


def one_row(tokens: Sequence[int], first: int) -> TokenRows:
    """Returns `TokenRows` of one row: tokens at positions from `first` on, padded to a length of the list."""
    length = rounded(len(tokens))
    ids, branches = np.zeros((1, length), np.int32), np.full((1, length), PADDING, np.int32)
    ids[0, : len(tokens)], branches[0, : len(tokens)] = tokens, 0
    return rows_of(ids, first + np.arange(length)[None], branches)


@functools.partial(jax.jit, static_argnums=1)
def _with_room(stored: tuple[Stored, ...], room: int) -> tuple[Stored, ...]:
    def one(a: jax.Array) -> jax.Array:
        kept = a[:, :room]
        return jnp.pad(kept, ((0, 0), (0, room - kept.shape[1]), (0, 0)))

    return jax.tree.map(one, stored)


@jax.jit
def appended(stored: tuple[Stored, ...], new: tuple[Stored, ...], at: int) -> tuple[Stored, ...]:
    """Writes the first row of `new` at position `at`; what goes past the room is padding, and dropped."""

    def one(old: jax.Array, new: jax.Array) -> jax.Array:
        positions = at + jnp.arange(new.shape[2])
        return old.at[:, positions].set(new[0].astype(old.dtype), mode="drop")

    return jax.tree.map(one, stored, new)
