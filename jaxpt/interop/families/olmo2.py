"""OLMo 2: norms on the branches' outputs, and of queries and keys across all heads."""

from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys
from jaxpt.interop.mapping import BIASES, EMBED, OUTER, PROJECTIONS, K, Q, Tensor
from jaxpt.models.config import ModelConfig

NORMS = (
    Tensor("model.layers.{i}.post_attention_layernorm.weight", "attn_post_norm", (EMBED,)),
    Tensor("model.layers.{i}.post_feedforward_layernorm.weight", "mlp_post_norm", (EMBED,)),
    Tensor("model.layers.{i}.self_attn.q_norm.weight", "q_norm", (Q,)),
    Tensor("model.layers.{i}.self_attn.k_norm.weight", "k_norm", (K,)),
)
FIXED = {"norm_position": "post", "qk_norm": "full", "norm_cast_order": "gain_before_cast"}


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    bias = keys.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias}


def _write(config: ModelConfig) -> dict[str, object]:
    return {"attention_bias": config.qkv_bias}


FAMILY = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    OUTER + PROJECTIONS + BIASES + NORMS,
    FIXED,
    _read,
    _write,
    absent={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
)
