"""Llama 2, 3, 3.1, 3.2."""

from jaxpt.interop.family import Family, SharedFacts, whole_embed_per_head
from jaxpt.interop.keys import Keys
from jaxpt.interop.mapping import LLAMA_LIKE
from jaxpt.models.config import ModelConfig


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    keys.must_be("mlp_bias", False)
    bias = keys.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias}


def _write(config: ModelConfig) -> dict[str, object]:
    return {"attention_bias": config.qkv_bias, "mlp_bias": False}


FAMILY = Family(
    "llama",
    "LlamaForCausalLM",
    LLAMA_LIKE,
    {},
    _read,
    _write,
    absent={"max_position_embeddings": 2048},
    limits=(whole_embed_per_head,),
)
