"""Config keys that the mixture-of-experts families share."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jaxpt.errors import JaxptError
from jaxpt.interop.keys import Keys
from jaxpt.models.config import LayerSpec, ModelConfig
from jaxpt.models.moe_config import MoeConfig


def read_experts(keys: Keys, mlp: int, normalised: bool, **more: Any) -> MoeConfig:
    """Returns the facts of the routed experts, each of width `mlp`; the number of experts goes by two names.

    Args:
        keys: the config being read.
        mlp: one expert's width.
        normalised: whether the chosen experts' probabilities are divided by their sum.
        **more: further fields of `MoeConfig`.
    """
    count, local = keys.get("num_experts"), keys.get("num_local_experts")
    if None not in (count, local) and count != local:
        raise keys.refuse("num_local_experts", f"num_experts={count} says otherwise")
    if count is None and local is None:
        raise JaxptError(f"{keys.where} lacks num_experts (in other families num_local_experts)")
    experts = keys.whole("num_experts" if local is None else "num_local_experts")
    weights: Literal["softmax", "renormalised"] = "renormalised" if normalised else "softmax"
    chosen = keys.whole("num_experts_per_tok")
    try:
        return MoeConfig(experts, chosen, mlp, weights=weights, **more)
    except JaxptError as e:
        raise JaxptError(f"{keys.where}: {e}") from e


def written_experts(config: ModelConfig) -> MoeConfig:
    """Returns the mixture of a model to be exported.

    Raises:
        JaxptError: it has none.
    """
    if config.moe is None:
        raise JaxptError("export: the family is one of mixtures of experts, the model has no model.moe")
    return config.moe


def mixture_layers(layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """Returns the layers with a mixture of experts in each."""
    return tuple(dataclasses.replace(layer, ffn="moe") for layer in layers)


def read_sparse(keys: Keys, layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """Returns the layers as `decoder_sparse_step` (every which layer is a mixture) and `mlp_only_layers` (not) say."""
    step, dense = keys.whole("decoder_sparse_step", 1), keys.get("mlp_only_layers", [])
    if step < 1:
        raise keys.refuse("decoder_sparse_step", "it must be at least 1")
    if not isinstance(dense, list) or not all(type(i) is int for i in dense):
        raise keys.refuse("mlp_only_layers", "it must be a list of layer numbers")
    dense = set(dense)
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(len(layers))]
    return tuple(dataclasses.replace(layer, ffn="moe") if s else layer for layer, s in zip(layers, sparse))


def write_sparse(config: ModelConfig) -> dict[str, object]:
    """Inverse of `read_sparse`."""
    return {"decoder_sparse_step": 1, "mlp_only_layers": list(config.layers_of("dense"))}
