"""The forward pass as pure functions of (config, params, tokens)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxpt.models import decoder
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params
from jaxpt.models.routing import Routing


def forward(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> jax.Array:
    """Returns float32 logits `[B, S, V]`.

    Args:
        config: the model.
        params: its parameters, a nested dict as `param_specs(config)` declares it.
        tokens: `[B, S]` int.
        segment_ids: `[B, S]` int; a token sees only its own segment. None: one segment a row.
        positions: `[B, S]` int for RoPE. None: they count up from 0 in each segment (from the row's start without
            `segment_ids`).
        compute: dtypes, remat, attention implementation.
    """
    x = hidden(config, params, tokens, segment_ids, positions, compute)
    return unembed(config, params, x, compute)[..., : config.vocab_size]


def hidden(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> jax.Array:
    """Returns the normalised last stream `[B, S, D]` in the compute dtype: what `unembed` turns into logits."""
    return hidden_and_routing(config, params, tokens, segment_ids, positions, compute)[0]


def hidden_and_routing(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> tuple[jax.Array, Routing | None]:
    """Returns `hidden`, and what the routers did: `jaxpt.models.routing.Routing` stacked over the
    mixture-of-experts layers (`counts [L, E]`, …), None without such layers. Tokens of segment 0 do not count."""
    x, routing, _ = hidden_and_taps(config, params, tokens, segment_ids, positions, compute)
    return x, routing


def hidden_and_taps(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    compute: Compute = Compute(),  # noqa: B008
    taps: Sequence[int] = (),
) -> tuple[jax.Array, Routing | None, tuple[jax.Array, ...]]:
    """Returns `hidden_and_routing`, and the stream `[B, S, D]` after each of the layers `taps`, not normalised.

    `taps` are global numbers of layers; the streams of other layers are not kept.
    """
    tokens = jnp.asarray(tokens)
    segment_ids = None if segment_ids is None else jnp.asarray(segment_ids)
    if positions is None:
        positions = segment_positions(tokens, segment_ids)
    x, routing, tapped = decoder.streams(config, params, tokens, segment_ids, positions, compute, taps)
    return x, routing, tapped


def unembed(config: ModelConfig, params: Params, x: jax.Array, compute: Compute = Compute()) -> jax.Array:  # noqa: B008
    """Returns float32 logits `[..., V']` of streams `x [..., D]`.

    V' is the vocabulary as it is in memory; where it is padded the extra columns are -inf.
    """
    return decoder.logits(config, params, x, compute)


def head_of(config: ModelConfig, params: Params) -> Params:
    """Returns the part of the parameters that `unembed` reads and the rest of the forward pass may read, too."""
    name = "embed" if config.tie_embeddings else "head"
    return {name: params[name]}


def segment_positions(tokens: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Returns `[B, S]` int32 positions that restart at 0 wherever the segment id changes."""
    index = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    if segment_ids is None:
        return index
    start = jnp.concatenate([jnp.ones_like(index[:, :1], bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
    return index - jax.lax.cummax(jnp.where(start, index, 0), axis=1)
