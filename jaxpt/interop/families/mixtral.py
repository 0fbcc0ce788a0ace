"""Mixtral: Mistral with a mixture of experts in every layer."""

from jaxpt.interop.experts import mixture_layers, read_experts, written_experts
from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys, read_window
from jaxpt.interop.mapping import ATTENTION, EMBED, EXPERT_MLP, OUTER, PRE_NORMS, Tensor
from jaxpt.models.config import ModelConfig, uniform_layers

MIXTURE = (
    Tensor("model.layers.{i}.block_sparse_moe.gate.weight", "router", (("experts",), EMBED)),
    Tensor("model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight", "expert_gate", (EXPERT_MLP, EMBED)),
    Tensor("model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight", "expert_up", (EXPERT_MLP, EMBED)),
    Tensor("model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight", "expert_down", (EMBED, EXPERT_MLP)),
)


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    window = read_window(keys)
    layers = facts["layers"]
    if window is not None:
        layers = uniform_layers(len(layers), attention="window", window=window)
    return {
        "layers": mixture_layers(layers),
        "moe": read_experts(keys, facts["mlp"], normalised=True),
    }


def _write(config: ModelConfig) -> dict[str, object]:
    moe = written_experts(config)
    return {
        "intermediate_size": moe.mlp,
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.experts_per_token,
        "sliding_window": config.layers[0].window,
    }


FAMILY = Family(
    "mixtral",
    "MixtralForCausalLM",
    OUTER + ATTENTION + PRE_NORMS + MIXTURE,
    {"qk_norm": "none"},
    _read,
    _write,
    absent={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
    },
)
