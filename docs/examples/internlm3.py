"""A model family: InternLM 3, a Llama whose q, k and v have biases where `qkv_bias` says so, and o where `bias` does.

PYTHONPATH=docs/examples jaxpt import --from=HF_DIR --to=BUNDLE --family=internlm3:FAMILY
PYTHONPATH=docs/examples jaxpt export --from=BUNDLE --to=HF_DIR --family=internlm3:FAMILY
"""

from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys
from jaxpt.interop.mapping import LLAMA_LIKE
from jaxpt.models.config import ModelConfig


def read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    """Facts of `ModelConfig` beyond those that all families share; a key that nothing reads is refused by name."""
    keys.must_be("bias", False)  # it would give biases to the feed-forward too, which jaxpt does not have
    return {"qkv_bias": keys.flag("qkv_bias")}


def write(config: ModelConfig) -> dict[str, object]:
    """The reverse; an export checks that reading it again gives the same model."""
    return {"qkv_bias": config.qkv_bias, "bias": False}


FAMILY = Family(
    "internlm3", "InternLM3ForCausalLM", LLAMA_LIKE, {}, read, write, absent={"max_position_embeddings": 32_768}
)
