"""One pass over rows of tokens that stand after a prefix and may branch; layer by layer, each a small program.

A layer is compiled once for each kind of layer and shape of the rows, not once for each layer.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.generation.attend import Stored, attend, heads_first
from jaxpt.generation.weights import LaidOutWeights
from jaxpt.kernels.attention.call import Logits
from jaxpt.models.block import Block, Context, LayerCache
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec, ModelConfig
from jaxpt.models.decoder import rope_tables
from jaxpt.models.layer import finish, first_stream
from jaxpt.models.params import Params, leaf
from jaxpt.sharding.activations import constrain

PADDING = -1  # branch of what is no token


class TokenRows(NamedTuple):
    """Tokens `[B, S]`, their positions, and which branch each is of: 0 is seen by all that follows, 1, 2, … by tokens
    of that branch, `PADDING` by none."""

    tokens: jax.Array
    positions: jax.Array
    branches: jax.Array


class Prefix(NamedTuple):
    """What all rows have before them: each layer's `Stored` `[K, P, h]`, of which the first `length` are real."""

    layers: tuple[Stored, ...]
    length: jax.Array

    @property
    def room(self) -> int:
        """P."""
        return self.layers[0].keys.shape[-2]


def run(
    config: ModelConfig, weights: LaidOutWeights, compute: Compute, rows: TokenRows, prefix: Prefix | None = None
) -> tuple[jax.Array, tuple[Stored, ...]]:
    """Returns the last stream `[B, S, D]` before the final norm, and the keys and values of each layer `[B, K, S, h]`.

    Args:
        config: the model.
        weights: laid out.
        compute: what they are multiplied in.
        rows: the tokens; those of a branch stand in their order.
        prefix: what stands before each of them.
    """
    x, rope = _begin(config, compute, weights.outer, rows)
    stored = []
    for number, layer in enumerate(config.layers):
        before = None if prefix is None else prefix.layers[number]
        length = None if prefix is None else prefix.length
        x, kept = _layer(config, layer, compute, weights.layers[number], x, rope, rows, before, length)
        stored.append(kept)
    return x, tuple(stored)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(
    config: ModelConfig, compute: Compute, outer: Params, rows: TokenRows
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    x = first_stream(config, outer, rows.tokens, compute)
    return x, rope_tables(config, rows.positions)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _layer(
    config: ModelConfig,
    layer: LayerSpec,
    compute: Compute,
    leaves: Params,
    x: jax.Array,
    rope: dict[str, tuple[jax.Array, jax.Array]],
    rows: TokenRows,
    prefix: Stored | None,
    length: jax.Array | None,
) -> tuple[jax.Array, Stored]:
    of = Logits(config.scale, None, config.attention_softcap, compute.precision)

    def cached(
        q: jax.Array, k: jax.Array, v: jax.Array, layer: LayerSpec, _: LayerCache | None
    ) -> tuple[jax.Array, Stored]:
        own = Stored(heads_first(k), heads_first(v))
        parts = [(own, seen_of_rows(rows, layer.window))]
        if prefix is not None and length is not None:
            parts.insert(0, (prefix, seen_of_prefix(rows, prefix.keys.shape[-2], length, layer.window)))
        return attend(q, parts, of), own

    real = (rows.branches != PADDING).astype(jnp.int32)  # padding goes to no expert of a mixture
    ctx = Context(rope, real, cached)
    named = {name: leaf(leaves, name) for name in leaves}
    x, (own, _) = Block(config, named)(x, layer, ctx, compute)
    assert own is not None
    return x, own


def seen_of_rows(rows: TokenRows, window: int | None) -> jax.Array:
    """Returns bool `[B, S, S]`: what each token sees of its own row."""
    at = jnp.arange(rows.tokens.shape[1])
    mine, other = rows.branches[:, :, None], rows.branches[:, None, :]
    seen = (at[None, None, :] <= at[None, :, None]) & ((other == 0) | (other == mine)) & (other != PADDING)
    if window is not None:
        seen &= rows.positions[:, :, None] - rows.positions[:, None, :] < window
    return seen


def seen_of_prefix(rows: TokenRows, room: int, length: jax.Array, window: int | None) -> jax.Array:
    """Returns bool, broadcast to `[B, S, P]`: what each token sees of the prefix."""
    at = jnp.arange(room)[None, None, :]
    seen = at < length
    if window is not None:
        seen = seen & (rows.positions[:, :, None] - at < window)
    return seen


@jax.jit
def taken(x: jax.Array, at: jax.Array) -> jax.Array:
    """Returns the streams `[N, D]` of `x [B, S, D]` at flat positions `[N]`."""
    return constrain(x.reshape(-1, x.shape[-1])[at], None, None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def judged(
    config: ModelConfig, compute: Compute, outer: Params, x: jax.Array, which: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns float32 log-probabilities `[M]` of tokens after streams, and whether each is the likeliest.

    Args:
        config: the model.
        compute: what the head is multiplied in.
        outer: the parameters outside the blocks.
        x: `[N, D]`, before the final norm.
        which: `[M]`, the stream that each token follows.
        targets: `[M]`, the tokens.
    """
    out = finish(config, outer, x, compute)
    log_probs = out[which, targets] - jax.nn.logsumexp(out, axis=-1)[which]
    return constrain(log_probs, None), constrain(jnp.argmax(out, axis=-1)[which] == targets, None)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def ranked(
    config: ModelConfig, compute: Compute, top: int, outer: Params, x: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the log-probabilities `[N]` of tokens after streams, and ids and log-probabilities of the likeliest.

    Args:
        config: the model.
        compute: what the head is multiplied in.
        top: how many of the likeliest.
        outer: the parameters outside the blocks.
        x: `[N, D]`, before the final norm.
        targets: `[N]`, the token that follows each stream.

    Returns:
        float32 `[N]`, int32 `[N, top]` and float32 `[N, top]`; a token among the likeliest has one and the same float.
    """
    log_probs = jax.nn.log_softmax(finish(config, outer, x, compute), axis=-1)
    values, ids = jax.lax.top_k(log_probs, top)
    return jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0], ids.astype(jnp.int32), values


def rows_of(tokens: np.ndarray, positions: np.ndarray, branches: np.ndarray) -> TokenRows:
    """Returns int32 arrays as `TokenRows` on the default device."""
    return TokenRows(*(jnp.asarray(a, jnp.int32) for a in (tokens, positions, branches)))
