"""One layer at a time, for models of which only a slice is in memory: the stream before, through and after a layer."""

from collections.abc import Callable, Mapping

import jax

from jaxpt.models.block import Block, Context
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec, ModelConfig
from jaxpt.models.decoder import embedded, logits, normalised, rope_tables
from jaxpt.models.params import Params, branch, leaf


def run_layer(
    config: ModelConfig,
    layer: LayerSpec,
    leaves: Mapping[str, jax.Array],
    x: jax.Array,
    segment_ids: jax.Array | None,
    positions: jax.Array,
    compute: Compute,
    tap: Callable[[str, jax.Array], None] | None = None,
) -> jax.Array:
    """Returns the stream `[B, S, D]` after one layer.

    Args:
        config: the model.
        layer: which kind of layer.
        leaves: the layer's parameters by name, as `block_specs` declares them (no `layers` axis).
        x: the stream before it, `[B, S, D]`.
        segment_ids: `[B, S]` or None.
        positions: `[B, S]` int32.
        compute: dtypes and attention implementation.
        tap: is shown the layer's activations; see `Context.tap`.
    """
    ctx = Context(rope_tables(config, positions), segment_ids, tap=tap)
    return Block(config, leaves)(x, layer, ctx, compute)[0]


def embed_tokens(config: ModelConfig, table: jax.Array, tokens: jax.Array, compute: Compute) -> jax.Array:
    """Returns the first stream `[B, S, D]`, from the token table `[V, D]` alone."""
    return embedded(config, table, tokens, compute)


def first_stream(config: ModelConfig, outer: Params, tokens: jax.Array, compute: Compute) -> jax.Array:
    """Returns the first stream `[B, S, D]`, from the parameters `outer` that stand outside blocks."""
    return embedded(config, leaf(outer, "embed", "table"), tokens, compute)


def last_stream(config: ModelConfig, outer: Params, x: jax.Array, compute: Compute) -> jax.Array:
    """Returns the stream `[B, S, D]` after the final norm, which the head turns into logits."""
    return normalised(config, leaf(outer, "final_norm"), x, compute)


def finish(config: ModelConfig, outer: Params, x: jax.Array, compute: Compute) -> jax.Array:
    """Returns float32 logits `[B, S, V]` of the last stream, from the parameters `outer` that stand outside blocks."""
    return logits(config, outer, last_stream(config, outer, x, compute), compute)[..., : config.vocab_size]


def outer_cast(params: Params, cast: Callable[[jax.Array], jax.Array]) -> Params:
    """Returns the parameters that stand outside blocks, with `cast` of the matrices among them; gains stay as they are.

    Args:
        params: all parameters.
        cast: of the token table and of the head, where it is a matrix of its own.
    """
    outer = {name: part for name, part in params.items() if name != "blocks"}
    outer["embed"] = {**branch(params, "embed"), "table": cast(leaf(params, "embed", "table"))}
    return {**outer, "head": cast(leaf(params, "head"))} if "head" in outer else outer
