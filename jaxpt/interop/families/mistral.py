"""Mistral: Llama with a sliding window over all layers where the config names one."""

from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys, read_window
from jaxpt.interop.mapping import OUTER, PRE_NORMS, PROJECTIONS
from jaxpt.models.config import ModelConfig, uniform_layers


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    window = read_window(keys)
    if window is None:
        return {}
    return {"layers": uniform_layers(len(facts["layers"]), attention="window", window=window)}


def _write(config: ModelConfig) -> dict[str, object]:
    return {"sliding_window": config.layers[0].window}


FAMILY = Family(
    "mistral",
    "MistralForCausalLM",
    OUTER + PROJECTIONS + PRE_NORMS,
    {},
    _read,
    _write,
    absent={"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
)
