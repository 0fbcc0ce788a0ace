"""Qwen 3: norms of queries and keys per head instead of biases."""

from jaxpt.interop.families.qwen2 import ABSENT, read_windows, write_windows
from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys
from jaxpt.interop.mapping import HEAD_NORMS, LLAMA_LIKE
from jaxpt.models.config import ModelConfig


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    bias = keys.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias, **read_windows(keys, facts)}


def _write(config: ModelConfig) -> dict[str, object]:
    return {"attention_bias": config.qkv_bias, **write_windows(config)}


FAMILY = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    LLAMA_LIKE + HEAD_NORMS,
    {"qk_norm": "head"},
    _read,
    _write,
    absent={**ABSENT, "head_dim": 128},
)
