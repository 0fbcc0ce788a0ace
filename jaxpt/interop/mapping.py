"""How a foreign tensor's dimensions map onto a leaf of the axis table, both ways."""

import math
from dataclasses import dataclass

import numpy as np

from jaxpt.models.params import ArrayIndex
from jaxpt.models.specs import ParamSpec


@dataclass(frozen=True)
class Tensor:
    """One kind of foreign tensor.

    `name` holds `{i}` where there is one per layer, and `{e}` where there is one per expert; `leaf` is the parameter's
    path, for layers without `blocks/<structure>/`; `axes` gives, for each foreign dimension, the axes of ours that it
    holds side by side (none: a dimension of length 1).
    """

    name: str
    leaf: str
    axes: tuple[tuple[str, ...], ...]

    @property
    def per_layer(self) -> bool:
        """Whether there is one for each layer."""
        return "{i}" in self.name

    def foreign_shape(self, spec: ParamSpec) -> tuple[int, ...]:
        """Returns the foreign tensor's shape for a leaf (of one layer, one expert)."""
        length = dict(zip(spec.axes, spec.shape))
        return tuple(math.prod(length[a] for a in group) for group in self.axes)

    def to_ours(self, value: np.ndarray, spec: ParamSpec, index: ArrayIndex = ...) -> np.ndarray:
        """Returns a foreign tensor in the leaf's layout: one layer, one expert of it, or what `index` cuts out of that.

        No more than the result is copied.
        """
        names = spec.axes[len(spec.pieces) :]
        length = dict(zip(spec.axes, spec.shape))
        flat = [a for group in self.axes for a in group]
        split = value.reshape([length[a] for a in flat])
        return np.ascontiguousarray(split.transpose([flat.index(a) for a in names])[index])

    def to_foreign(self, value: np.ndarray, spec: ParamSpec) -> np.ndarray:
        """Inverse of `to_ours`."""
        names = spec.axes[len(spec.pieces) :]
        flat = [a for group in self.axes for a in group]
        return np.ascontiguousarray(value.transpose([names.index(a) for a in flat])).reshape(self.foreign_shape(spec))


EMBED, MLP, EXPERT_MLP = ("embed",), ("mlp",), ("expert_mlp",)
Q, K = ("heads", "head_dim"), ("kv_heads", "head_dim")

# What Llama and its descendants share; families add and replace.
OUTER = (
    Tensor("model.embed_tokens.weight", "embed/table", (("vocab",), EMBED)),
    Tensor("model.norm.weight", "final_norm", (EMBED,)),
    Tensor("lm_head.weight", "head", (("vocab",), EMBED)),
)
ATTENTION = (
    Tensor("model.layers.{i}.self_attn.q_proj.weight", "q", (Q, EMBED)),
    Tensor("model.layers.{i}.self_attn.k_proj.weight", "k", (K, EMBED)),
    Tensor("model.layers.{i}.self_attn.v_proj.weight", "v", (K, EMBED)),
    Tensor("model.layers.{i}.self_attn.o_proj.weight", "o", (EMBED, Q)),
)
FEED_FORWARD = (
    Tensor("model.layers.{i}.mlp.gate_proj.weight", "gate", (MLP, EMBED)),
    Tensor("model.layers.{i}.mlp.up_proj.weight", "up", (MLP, EMBED)),
    Tensor("model.layers.{i}.mlp.down_proj.weight", "down", (EMBED, MLP)),
)
EXPERTS = (
    Tensor("model.layers.{i}.mlp.gate.weight", "router", (("experts",), EMBED)),
    Tensor("model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "expert_gate", (EXPERT_MLP, EMBED)),
    Tensor("model.layers.{i}.mlp.experts.{e}.up_proj.weight", "expert_up", (EXPERT_MLP, EMBED)),
    Tensor("model.layers.{i}.mlp.experts.{e}.down_proj.weight", "expert_down", (EMBED, EXPERT_MLP)),
)
BIASES = (
    Tensor("model.layers.{i}.self_attn.q_proj.bias", "q_bias", (Q,)),
    Tensor("model.layers.{i}.self_attn.k_proj.bias", "k_bias", (K,)),
    Tensor("model.layers.{i}.self_attn.v_proj.bias", "v_bias", (K,)),
    Tensor("model.layers.{i}.self_attn.o_proj.bias", "o_bias", (EMBED,)),
)
PRE_NORMS = (
    Tensor("model.layers.{i}.input_layernorm.weight", "attn_norm", (EMBED,)),
    Tensor("model.layers.{i}.post_attention_layernorm.weight", "mlp_norm", (EMBED,)),
)
HEAD_NORMS = (
    Tensor("model.layers.{i}.self_attn.q_norm.weight", "q_norm", (("head_dim",),)),
    Tensor("model.layers.{i}.self_attn.k_norm.weight", "k_norm", (("head_dim",),)),
)
PROJECTIONS = ATTENTION + FEED_FORWARD
LLAMA_LIKE = OUTER + PROJECTIONS + BIASES + PRE_NORMS
