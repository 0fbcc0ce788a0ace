"""OLMoE: norms of queries and keys across all heads, a mixture of experts in every layer."""

from jaxpt.errors import JaxptError
from jaxpt.interop.experts import mixture_layers, read_experts, written_experts
from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys
from jaxpt.interop.mapping import ATTENTION, BIASES, EXPERTS, OUTER, PRE_NORMS, K, Q, Tensor
from jaxpt.models.config import ModelConfig

NORMS = (
    Tensor("model.layers.{i}.self_attn.q_norm.weight", "q_norm", (Q,)),
    Tensor("model.layers.{i}.self_attn.k_norm.weight", "k_norm", (K,)),
)


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    keys.must_be("clip_qkv", None)
    bias = keys.flag("attention_bias")
    if facts["heads"] * facts["head_dim"] != facts["embed"]:
        raise JaxptError(f"{keys.where}: head_dim={facts['head_dim']} must be hidden_size / num_attention_heads")
    return {
        "layers": mixture_layers(facts["layers"]),
        "moe": read_experts(keys, facts["mlp"], keys.flag("norm_topk_prob")),
        "qkv_bias": bias,
        "o_bias": bias,
    }


def _write(config: ModelConfig) -> dict[str, object]:
    moe = written_experts(config)
    return {
        "intermediate_size": moe.mlp,
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.experts_per_token,
        "norm_topk_prob": moe.weights == "renormalised",
        "attention_bias": config.qkv_bias,
        "clip_qkv": None,
    }


def _heads_fill_embed(config: ModelConfig) -> None:
    """A limit: queries are as wide as the stream, as the norm across all heads is of the hidden size.

    Raises:
        JaxptError: they are not.
    """
    if (width := config.heads * config.head_dim) != config.embed:
        raise JaxptError(
            f"heads {config.heads} x head_dim {config.head_dim} = {width} must be hidden_size={config.embed}; "
            "change target.embed and target.heads together"
        )


FAMILY = Family(
    "olmoe",
    "OlmoeForCausalLM",
    OUTER + ATTENTION + BIASES + PRE_NORMS + NORMS + EXPERTS,
    {"qk_norm": "full"},
    _read,
    _write,
    absent={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    limits=(_heads_fill_embed,),
)
