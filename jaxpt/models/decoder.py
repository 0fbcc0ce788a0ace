"""The decoder as a Flax NNX module: embedding, stacked blocks run by scans, final norm, head."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpt.models.block import Block, Context
from jaxpt.models.compute import REMAT_POLICIES, Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.init import init_leaf, leaf_key
from jaxpt.models.norms import rms_norm
from jaxpt.models.pattern import Span, spans
from jaxpt.models.rope import cos_sin
from jaxpt.models.specs import param_specs
from jaxpt.sharding.activations import constrain


class Embed(nnx.Module):
    """The token table `[V, D]`."""

    def __init__(self, table: jax.Array):
        """Holds `table`."""
        self.table = nnx.Param(table)


class Blocks(nnx.Module):
    """The stacked layers, one `Block` per parameter structure."""

    def __init__(self, config: ModelConfig, specs: Mapping[str, Any], seed: Any):
        """Declares each structure's stack."""
        for structure, stack in specs.items():
            setattr(self, structure, Block(config, stack, seed, f"blocks/{structure}"))


class Decoder(nnx.Module):
    """A decoder-only transformer over the parameters that `param_specs(config)` declares."""

    def __init__(self, config: ModelConfig, seed: Any = 0):
        """Draws all parameters from `seed`, the same values as `init_params`."""
        self.config = config
        specs = param_specs(config)

        def draw(path: str, spec: Any) -> jax.Array:
            return init_leaf(spec, leaf_key(seed, path))

        self.embed = Embed(draw("embed/table", specs["embed"]["table"]))
        self.blocks = Blocks(config, specs["blocks"], seed)
        self.final_norm = nnx.Param(draw("final_norm", specs["final_norm"]))
        if not config.tie_embeddings:
            self.head = nnx.Param(draw("head", specs["head"]))

    def hidden(
        self,
        tokens: jax.Array,
        segment_ids: jax.Array | None,
        positions: jax.Array,
        compute: Compute,
        cache: Any = None,
    ) -> tuple[jax.Array, Any, Any]:
        """Returns the normalised last stream `[B, S, D]` in the compute dtype, the cache, and the routing statistics.

        The statistics (None without mixture-of-experts layers) are stacked over those layers, in order.
        """
        c = self.config
        x = self.embedded(tokens, compute)
        ctx = Context(rope_tables(c, positions), segment_ids, positions if cache is not None else None)
        done: list[Any] = []
        told: list[Any] = []
        for span in spans(c):
            x, part, routing = self._run(span, x, ctx, compute, cache)
            done.append(part)
            told += [] if routing is None else [routing]
        if cache is not None:
            cache = jax.tree.map(lambda *parts: jnp.concatenate(parts), *done)
        routing = jax.tree.map(lambda *parts: jnp.concatenate(parts), *told) if told else None
        return self.normalised(x, compute), cache, routing

    def embedded(self, tokens: jax.Array, compute: Compute) -> jax.Array:
        """Returns the first stream `[B, S, D]` in the residual dtype."""
        c = self.config
        x = self.embed.table.value.astype(compute.jnp_dtype)[tokens]
        if c.embed_scale != 1.0:
            x = x * jnp.asarray(c.embed_scale, compute.jnp_dtype)
        return constrain(x.astype(compute.jnp_residual_dtype), "batch", "sequence", None)

    def normalised(self, x: jax.Array, compute: Compute) -> jax.Array:
        """Returns the last stream `[B, S, D]` after the final norm, in the compute dtype."""
        c = self.config
        cast_first = c.norm_cast_order == "gain_after_cast"
        return rms_norm(
            x.astype(compute.jnp_dtype),
            self.final_norm.value,
            c.norm_eps,
            offset=c.norm_gain_offset,
            cast_first=cast_first,
        )

    def _run(self, span: Span, x: jax.Array, ctx: Context, compute: Compute, cache: Any) -> tuple[jax.Array, Any, Any]:
        """Scans one span: `repeats` times its period of layers, each with static specs."""
        stacks = {s: nnx.split(getattr(self.blocks, s)) for s in span.structures}
        take = span.take({s: nnx.to_pure_dict(state) for s, (_, state) in stacks.items()})
        n = len(span.period)
        kv = None
        if cache is not None:
            kv = jax.tree.map(
                lambda a: a[span.first : span.first + n * span.repeats].reshape(span.repeats, n, *a.shape[1:]), cache
            )

        def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
            leaves, kv = inputs
            new, told = [], []
            for i, (layer, (structure, j)) in enumerate(zip(span.period, span.slots)):
                graph, state = stacks[structure]
                one = jax.tree.map(lambda a, j=j: a[j], leaves[structure])
                block = nnx.merge(graph, nnx.State(_wrap(state, one)))
                one_kv = None if kv is None else jax.tree.map(lambda a, i=i: a[i], kv)
                x, (new_kv, routing) = block(x, layer, ctx, compute, one_kv)
                new.append(new_kv)
                told += [] if routing is None else [routing]
            return x, (None if kv is None else _stacked(new), _stacked(told) if told else None)

        if compute.remat != "none" and cache is None:
            body = jax.checkpoint(body, policy=REMAT_POLICIES[compute.remat], prevent_cse=False)
        x, out = jax.lax.scan(body, x, (take, kv))
        return (x, *(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), part) for part in out))

    def logits(self, x: jax.Array, compute: Compute) -> jax.Array:
        """Returns float32 logits `[..., V]` of normalised streams `[..., D]`; columns past the vocabulary are -inf."""
        c = self.config
        if c.tie_embeddings:
            table = self.embed.table.value.astype(compute.jnp_dtype)
            out = jnp.einsum("...d,vd->...v", x, table, precision=compute.precision, preferred_element_type=jnp.float32)
        else:
            head = self.head.value.astype(compute.jnp_dtype)
            out = jnp.einsum("...d,dv->...v", x, head, precision=compute.precision, preferred_element_type=jnp.float32)
        if c.logit_scale != 1.0:
            out = out * c.logit_scale
        if c.logit_softcap is not None:
            out = c.logit_softcap * jnp.tanh(out / c.logit_softcap)
        if out.shape[-1] > c.vocab_size:  # a vocabulary padded in memory
            out = jnp.where(jnp.arange(out.shape[-1]) < c.vocab_size, out, -jnp.inf)
        return out


def rope_tables(c: ModelConfig, positions: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns (cos, sin) of every rope the model has, by name, for `positions [B, S]`."""
    rope = {"global": cos_sin(c.rope, c.head_dim, positions)}
    if c.rope_local is not None:
        rope["local"] = cos_sin(c.rope_local, c.head_dim, positions)
    return rope


def _stacked(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *a: jnp.stack(a), *parts)


def _wrap(state: Any, leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {name: state[name].replace(leaves[name]) for name in leaves}


@functools.lru_cache(maxsize=64)
def _abstract(config: ModelConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config)))


def bind(config: ModelConfig, params: Mapping[str, Any]) -> Decoder:
    """Returns the module that computes with `params` (a plain nested dict, as `param_specs` declares it)."""
    graph, state = _abstract(config)
    state = jax.tree.map(lambda x: x, state)  # the cached one stays abstract
    nnx.replace_by_pure_dict(state, dict(params))
    return nnx.merge(graph, state)
