"""The decoder: embedding, stacked blocks run by scans, final norm, head, as functions of its parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpt.models.block import Block, Context, weights_cast
from jaxpt.models.compute import REMAT_POLICIES, Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.head_product import head_product
from jaxpt.models.init import init_leaf, leaf_key
from jaxpt.models.masks import counted, masked_layer, not_masked_leaves, stacked_gates, stream_gates
from jaxpt.models.norms import rms_norm
from jaxpt.models.params import Params, branch, leaf
from jaxpt.models.pattern import Span, cut, spans
from jaxpt.models.rope import cos_sin
from jaxpt.models.routing import Routing
from jaxpt.models.specs import ParamSpec, Specs, param_specs
from jaxpt.sharding.activations import constrain

Body = Callable[[jax.Array, Any], tuple[jax.Array, Any]]  # (stream, inputs of a layer) -> (stream, outputs)


class Decoder(nnx.Module):
    """The parameters that `param_specs(config)` declares, as variables of Flax NNX; called, it gives logits."""

    def __init__(self, config: ModelConfig, seed: int | jax.Array = 0):
        """Draws all parameters from `seed`, the same values as `init_params`."""
        self.config = config

        def declared(specs: Specs, prefix: str = "") -> dict[str, Any]:
            return {name: one(spec, f"{prefix}{name}") for name, spec in specs.items()}

        def one(spec: ParamSpec | Specs, path: str) -> nnx.Param | nnx.Dict:
            if isinstance(spec, Mapping):
                return nnx.Dict(declared(spec, f"{path}/"))
            return nnx.Param(init_leaf(spec, leaf_key(seed, path)))

        for name, variables in declared(param_specs(config)).items():
            setattr(self, name, variables)

    def __call__(
        self, tokens: jax.Array, segment_ids: jax.Array | None, positions: jax.Array, compute: Compute
    ) -> jax.Array:
        """Returns float32 logits `[B, S, V]` of `tokens [B, S]`."""
        params = nnx.to_pure_dict(nnx.state(self))
        x, _ = hidden(self.config, params, tokens, segment_ids, positions, compute)
        return logits(self.config, params, x, compute)


def hidden(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None,
    positions: jax.Array,
    compute: Compute,
) -> tuple[jax.Array, Routing | None]:
    """Returns the normalised last stream `[B, S, D]` in the compute dtype, and the routing statistics.

    The statistics (None without mixture-of-experts layers) are stacked over those layers, in order.
    """
    x, routing, _ = streams(config, params, tokens, segment_ids, positions, compute)
    return x, routing


def streams(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None,
    positions: jax.Array,
    compute: Compute,
    taps: Sequence[int] = (),
) -> tuple[jax.Array, Routing | None, tuple[jax.Array, ...]]:
    """Returns what `hidden` does, and the stream `[B, S, D]` after each of the layers `taps` (global numbers), in the
    residual dtype and not normalised. The scans are split there: no other layer's stream is kept.

    Where `params` hold a mask (`jaxpt.models.masks`), it is the masked model that is computed."""
    x = embedded(config, leaf(params, "embed", "table"), tokens, compute)
    stream, gates = stream_gates(params), stacked_gates(config, params)
    if stream is not None:
        x = x * stream.astype(x.dtype)
    ctx = Context(rope_tables(config, positions), segment_ids)
    routings: list[Routing] = []
    after: dict[int, jax.Array] = {}
    for span in cut(config, spans(config), taps):
        x, routing = _run(config, branch(params, "blocks"), span, x, ctx, compute, gates, stream)
        after[span.first + len(span.period) * span.repeats - 1] = x
        routings += [] if routing is None else [routing]
    routing = jax.tree.map(lambda *parts: jnp.concatenate(parts), *routings) if routings else None
    last = normalised(config, leaf(params, "final_norm"), x, compute, counted(stream))
    return last, routing, tuple(after[layer] for layer in taps)


def embedded(config: ModelConfig, table: jax.Array, tokens: jax.Array, compute: Compute) -> jax.Array:
    """Returns the first stream `[B, S, D]` in the residual dtype, of the token table `[V, D]`."""
    x = table.astype(compute.jnp_dtype)[tokens]
    if config.embed_scale != 1.0:
        x = x * jnp.asarray(config.embed_scale, compute.jnp_dtype)
    return constrain(x.astype(compute.jnp_residual_dtype), "batch", "sequence", None)


def normalised(
    config: ModelConfig, gain: jax.Array, x: jax.Array, compute: Compute, width: jax.Array | None = None
) -> jax.Array:
    """Returns the last stream `[B, S, D]` after the final norm, in the compute dtype; `width` as in `rms_norm`."""
    cast_first = config.norm_cast_order == "gain_after_cast"
    x = x.astype(compute.jnp_dtype)
    return rms_norm(x, gain, config.norm_eps, offset=config.norm_gain_offset, cast_first=cast_first, width=width)


def _run(
    config: ModelConfig,
    stacks: Params,
    span: Span,
    x: jax.Array,
    ctx: Context,
    compute: Compute,
    gates: Params | None,
    stream: jax.Array | None,
) -> tuple[jax.Array, Routing | None]:
    """Scans one span: `repeats` times its period of layers, each with static specs."""
    leaves = span.take(stacks)
    leaves = {structure: weights_cast(branch(leaves, structure), compute) for structure in leaves}

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        leaves, masks = inputs
        routings = []
        for layer, (structure, j) in zip(span.period, span.slots):
            own = {name: a[j] for name, a in leaves[structure].items()}
            if masks is None:
                block = Block(config, own)
            else:
                mine = {axis: a[j] for axis, a in masks[structure].items()}
                block = Block(config, *masked_layer(config, structure, own, mine, stream))
            x, (_, routing) = block(x, layer, ctx, compute)
            routings += [] if routing is None else [routing]
        return x, (_stacked(routings) if routings else None)

    if compute.remat != "none":
        body = jax.checkpoint(body, policy=REMAT_POLICIES[compute.remat], prevent_cse=False)
    elif gates is not None:
        body = jax.checkpoint(body, policy=not_masked_leaves(config), prevent_cse=False)
    inputs = (leaves, None if gates is None else span.take(gates))
    x, out = _unrolled(body, x, inputs, span.repeats) if compute.unroll else jax.lax.scan(body, x, inputs)
    return x, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)


def _unrolled(body: Body, x: jax.Array, inputs: Any, repeats: int) -> tuple[jax.Array, Any]:
    """What `jax.lax.scan` gives, one call after the other: no layer's activations are copied into stacks and back.

    `jax.lax.split` and not an index: its gradient is one concatenation, that of indices adds whole stacks.
    """
    stacks, structure = jax.tree.flatten(inputs)
    pieces = [jax.lax.split(stack, (1,) * repeats) for stack in stacks]
    outs = []
    for i in range(repeats):
        x, out = body(x, jax.tree.unflatten(structure, [jnp.squeeze(parts[i], 0) for parts in pieces]))
        outs.append(out)
    return x, _stacked(outs)


def logits(config: ModelConfig, params: Params, x: jax.Array, compute: Compute) -> jax.Array:
    """Returns float32 logits `[..., V]` of normalised streams `[..., D]`; columns past the vocabulary are -inf."""
    tied = config.tie_embeddings
    head = (leaf(params, "embed", "table") if tied else leaf(params, "head")).astype(compute.jnp_dtype)
    out = head_product(x, head, tied, compute.precision)
    if config.logit_scale != 1.0:
        out = out * config.logit_scale
    if config.logit_softcap is not None:
        out = config.logit_softcap * jnp.tanh(out / config.logit_softcap)
    if out.shape[-1] > config.vocab_size:  # a vocabulary padded in memory
        out = jnp.where(jnp.arange(out.shape[-1]) < config.vocab_size, out, -jnp.inf)
    return out


def rope_tables(c: ModelConfig, positions: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns (cos, sin) of every rope the model has, by name, for `positions [B, S]`."""
    rope = {"global": cos_sin(c.rope, c.head_dim, positions)}
    if c.rope_local is not None:
        rope["local"] = cos_sin(c.rope_local, c.head_dim, positions)
    return rope


def _stacked(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *a: jnp.stack(a), *parts)
