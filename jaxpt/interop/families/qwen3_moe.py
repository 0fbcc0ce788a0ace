"""Qwen 3 MoE: Qwen 3 with routed experts, no shared ones."""

from jaxpt.interop.experts import read_experts, read_sparse, write_sparse, written_experts
from jaxpt.interop.families.qwen2 import ABSENT
from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys, read_window
from jaxpt.interop.mapping import EXPERTS, HEAD_NORMS, LLAMA_LIKE
from jaxpt.models.config import ModelConfig, uniform_layers


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    bias, normalised = keys.flag("attention_bias"), keys.flag("norm_topk_prob")
    window, on = read_window(keys), keys.flag("use_sliding_window")
    keys.get("max_window_layers")  # is in released configs; the family's forward does not read it
    layers = facts["layers"]
    if on and window is not None:
        layers = uniform_layers(len(layers), attention="window", window=window)
    return {
        "layers": read_sparse(keys, layers),
        "moe": read_experts(keys, keys.whole("moe_intermediate_size"), normalised),
        "qkv_bias": bias,
        "o_bias": bias,
    }


def _write(config: ModelConfig) -> dict[str, object]:
    moe = written_experts(config)
    window = config.layers[0].window
    return {
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.mlp,
        "norm_topk_prob": moe.weights == "renormalised",
        "attention_bias": config.qkv_bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        **write_sparse(config),
    }


FAMILY = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    LLAMA_LIKE + HEAD_NORMS + EXPERTS,
    {"qk_norm": "head"},
    _read,
    _write,
    absent={**ABSENT, "num_key_value_heads": 4},
)
