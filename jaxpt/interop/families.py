"""The families by `model_type`; adding one is its file and a line here."""

from collections.abc import Mapping
from typing import Any

from jaxpt.errors import JaxptError, nearest
from jaxpt.interop import gemma2, llama, mistral, mixtral, olmo2, olmoe, qwen2, qwen2_moe, qwen3, qwen3_moe
from jaxpt.interop.family import Family, write_config
from jaxpt.models.config import ModelConfig

DENSE = (llama, mistral, qwen2, qwen3, olmo2, gemma2)
MIXTURES = (mixtral, qwen2_moe, qwen3_moe, olmoe)
FAMILIES: dict[str, Family] = {m.FAMILY.model_type: m.FAMILY for m in (*DENSE, *MIXTURES)}


def family_of(values: Mapping[str, Any], where: str) -> Family:
    """Returns the family that a config.json names.

    Raises:
        JaxptError: an unknown one, a model that is no causal language model, quantised weights, or code of its own.
    """
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise JaxptError(
            f"{where}: model_type {kind!r} is not read{nearest(kind, FAMILIES)}; known: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    named = values.get("architectures") or [family.architecture]
    if named != [family.architecture]:
        raise JaxptError(f"{where}: architecture {', '.join(named)} is not read, only {family.architecture}")
    if values.get("quantization_config"):
        raise JaxptError(f"{where} asks for quantization_config: quantised weights are not read; use the original ones")
    return family


def expresses(family: Family, config: ModelConfig) -> bool:
    """Whether a family can say everything that a model is."""
    try:
        write_config(family, config)
    except JaxptError:
        return False
    return True


def family_for(config: ModelConfig) -> Family:
    """Returns the first family that can express a model.

    Raises:
        JaxptError: none can; the nearest one's reason.
    """
    reasons = []
    for family in FAMILIES.values():
        try:
            write_config(family, config)
        except JaxptError as e:
            reasons.append(f"{family.model_type}: {e}")
        else:
            return family
    raise JaxptError(f"export: no family can express this model ({'; '.join(reasons)[:600]})")
