"""Qwen 1.5 MoE and Qwen 2 MoE: Qwen 2 with routed experts, and shared ones that a sigmoid of the token scales."""

from jaxpt.interop.experts import read_experts, read_sparse, write_sparse, written_experts
from jaxpt.interop.families.qwen2 import ABSENT, read_windows, write_windows
from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys
from jaxpt.interop.mapping import EMBED, EXPERTS, LLAMA_LIKE, Tensor
from jaxpt.models.config import ModelConfig

WIDTH = ("shared_mlp",)
EMPTY = 64  # of the shared expert of zeros where a model has none: the family has one in every mixture
SHARED = (
    Tensor("model.layers.{i}.mlp.shared_expert.gate_proj.weight", "shared_gate", (WIDTH, EMBED)),
    Tensor("model.layers.{i}.mlp.shared_expert.up_proj.weight", "shared_up", (WIDTH, EMBED)),
    Tensor("model.layers.{i}.mlp.shared_expert.down_proj.weight", "shared_down", (EMBED, WIDTH)),
    Tensor("model.layers.{i}.mlp.shared_expert_gate.weight", "shared_score", ((), EMBED)),
)


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    # where layer_types is absent, every other layer below max_window_layers slides, unlike in Qwen 2
    windows = read_windows(keys, facts, lambda layer, first: layer % 2 == 0 and layer < first)
    shared = {"shared_mlp": keys.whole("shared_expert_intermediate_size"), "shared_score": True}
    normalised = keys.flag("norm_topk_prob")
    return {
        "layers": read_sparse(keys, windows["layers"]),
        "moe": read_experts(keys, keys.whole("moe_intermediate_size"), normalised, **shared),
        "qkv_bias": keys.flag("qkv_bias"),
    }


def _write(config: ModelConfig) -> dict[str, object]:
    moe = written_experts(config)
    return {
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.mlp,
        "shared_expert_intermediate_size": moe.shared_mlp or EMPTY,
        "norm_topk_prob": moe.weights == "renormalised",
        "qkv_bias": config.qkv_bias,
        **write_sparse(config),
        **write_windows(config),
    }


FAMILY = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    LLAMA_LIKE + EXPERTS + SHARED,
    {"qk_norm": "none"},
    _read,
    _write,
    absent={**ABSENT, "num_key_value_heads": 16, "qkv_bias": True},
)
