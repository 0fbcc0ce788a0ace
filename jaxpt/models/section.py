"""A config's `model` section: a preset or a model to start from, and what differs from it.

The model's own dataclasses check the values when the model is made. The sections have their keys (a test compares
them), all of them optional: None is a key that the config does not state.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.config import Activation, ModelConfig, NormCastOrder, NormPosition, QkNorm, RopeKind
from jaxpt.models.moe_config import RouterWeights
from jaxpt.models.presets import preset


@dataclass(frozen=True)
class RopeSection:
    """Rotary position embedding: what differs, see `jaxpt.models.config.RopeConfig`."""

    kind: RopeKind | None = option(None, "how frequencies are stretched beyond the original window")
    theta: float | None = option(None, "the base")
    factor: float | None = option(None, "by how much (linear, llama3, yarn)")
    original_max_positions: int | None = option(None, "the original window (llama3, yarn)")
    low_freq_factor: float | None = option(None, "llama3")
    high_freq_factor: float | None = option(None, "llama3")
    beta_fast: float | None = option(None, "yarn")
    beta_slow: float | None = option(None, "yarn")
    attention_factor: float | None = option(None, "yarn; left out: 0.1 ln(factor) + 1")
    truncate: bool | None = option(None, "yarn")
    inv_freq: tuple[float, ...] | None = option(None, "radians per position, instead of the computed table")
    max_positions: int | None = option(None, "the model's max_positions along with it")


@dataclass(frozen=True)
class MoeSection:
    """Mixtures of experts: what differs, see `jaxpt.models.moe_config.MoeConfig`."""

    experts: int | None = option(None, "routed experts per layer")
    experts_per_token: int | None = option(None, "of them, how many a token passes")
    mlp: int | None = option(None, "width of one expert")
    shared_mlp: int | None = option(None, "width of all shared experts together (0: none)")
    shared_score: bool | None = option(None, "a sigmoid of the token scales the shared experts (Qwen2-MoE)")
    weights: RouterWeights | None = option(None, "of the chosen experts: their softmax, or divided by its sum")
    route_scale: float | None = option(None, "multiplies these weights")
    selection_bias: bool | None = option(None, "a bias per expert is added to the choice, not to the weight")
    capacity_factor: float | None = option(None, "multiple of its even share that an expert takes; None drops no token")


@dataclass(frozen=True)
class ModelSection:
    """The model: a preset and what differs from it, see `jaxpt.models.config.ModelConfig`."""

    preset: str | None = option(None, "a shape by name, e.g. tiny, qwen2.5-7b: see jaxpt.models.presets")
    vocab_size: int | None = option(None, "entries of the vocabulary")
    embed: int | None = option(None, "width of the residual stream")
    heads: int | None = option(None, "query heads")
    kv_heads: int | None = option(None, "key and value heads")
    head_dim: int | None = option(None, "width of a head")
    mlp: int | None = option(None, "width of the feed-forward network")
    layers: Any = option(None, "a number of equal layers, or a list of {count, ffn, attention, window, rope}")
    activation: Activation | None = option(None, "of the feed-forward network's gate")
    norm_position: NormPosition | None = option(None, "before a branch, after it, or both")
    norm_eps: float | None = option(None, "of RMSNorm")
    qk_norm_eps: float | None = option(None, "of the norms of queries and keys; left out: norm_eps")
    norm_gain_offset: int | None = option(None, "what is added to a norm's gain: 0, or 1 (Gemma)")
    norm_cast_order: NormCastOrder | None = option(None, "whether the gain multiplies after the cast or before")
    qk_norm: QkNorm | None = option(None, "norm of queries and keys; left out: head with experts, else none")
    qkv_bias: bool | None = option(None, "biases on queries, keys and values")
    o_bias: bool | None = option(None, "a bias on the output of attention")
    attention_scale: float | None = option(None, "multiplies queries; left out: head_dim ** -0.5")
    attention_softcap: float | None = option(None, "bound of attention's logits")
    logit_softcap: float | None = option(None, "bound of the head's logits")
    embed_scale: float | None = option(None, "multiplies embedded tokens")
    residual_scale: float | None = option(None, "multiplies each branch")
    logit_scale: float | None = option(None, "multiplies logits")
    tie_embeddings: bool | None = option(None, "one matrix for embedding and head")
    rope: RopeSection | None = option(None, "rotary position embedding")
    rope_local: RopeSection | None = option(None, "that of layers with rope=local")
    max_positions: int | None = option(None, "positions that the model is made for")
    moe: MoeSection | None = option(None, "what its mixtures of experts are")

    def model(self, start: ModelConfig | None) -> ModelConfig:
        """Returns the model that the section describes: a preset or `start`, with keys replaced.

        Raises:
            JaxptError: neither preset nor shape, a value ModelConfig refuses, or a shape that is not that of `start`.
        """
        changes = stated(self)
        name = changes.pop("preset", None)
        if start is not None:
            return _same(start, name, changes)
        base = preset(name).to_dict() if name else {}
        if base and base["moe"] is None and "moe" in changes:
            del base["qk_norm"]  # a dense preset's says nothing about mixtures: their default holds
        return _changed(base, changes)


def stated(section: Any) -> dict[str, Any]:
    """Returns the keys that a section of changes states, those of sections within it too, as plain values."""
    given = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
    return {k: stated(v) if dataclasses.is_dataclass(v) else v for k, v in given.items() if v is not None}


def with_rope(model: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Returns `model` with fields of its rope replaced; `max_positions` may be changed along with it."""
    return _changed(model.to_dict(), {"rope": dict(changes)})


def _changed(base: Mapping[str, Any], changes: dict[str, Any]) -> ModelConfig:
    """A model from `base` (`ModelConfig.to_dict`'s form, or a part of it) with fields replaced, in sections too."""
    for name in ("rope", "rope_local", "moe"):
        if name in changes:
            changes = {**changes, name: {**(base.get(name) or {}), **changes[name]}}
    if "max_positions" in changes.get("rope", {}):
        changes = {**changes, "max_positions": changes["rope"].pop("max_positions")}
    return ModelConfig.from_dict({**base, **changes})


def _same(start: ModelConfig, name: str | None, changes: dict[str, Any]) -> ModelConfig:
    """`start`, of which only the rope may change; anything else that is stated must be as it is."""
    have = start.to_dict()
    if isinstance(changes.get("layers"), int) and changes["layers"] == len(start.layers):
        del changes["layers"]
    for key, value in changes.items():
        if key in ("rope", "rope_local"):
            continue
        if have[key] != ({**(have[key] or {}), **value} if key == "moe" else value):
            raise JaxptError(f"config.model.{key} is {value!r}, the model of init_from has {have[key]!r}; remove it")
    if name is not None and preset(name) != start:
        raise JaxptError(f"config.model.preset is {name!r}, init_from holds another model; remove it")
    return with_rope(start, changes["rope"]) if "rope" in changes else start
