"""What one family of foreign models is: its tensors, and its config in both directions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.interop.keys import ACTIVATIONS, Keys, write_rope
from jaxpt.interop.mapping import Tensor
from jaxpt.models.config import ModelConfig, uniform_layers


@dataclass(frozen=True)
class Family:
    """`read` turns config.json's keys into facts of `ModelConfig` beyond the shared ones; `write` the reverse.

    `fixed` are the facts that every model of the family has; an export of a model with others is refused by name.
    """

    model_type: str
    architecture: str
    tensors: tuple[Tensor, ...]
    fixed: dict[str, Any]
    read: Callable[[Keys, dict[str, Any]], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    tied: bool = False  # the family's default of tie_word_embeddings
    theta: float = 10_000.0
    activation_key: str = "hidden_act"
    activation: str = "silu"


def read_config(family: Family, keys: Keys) -> ModelConfig:
    """Returns the ModelConfig that a config.json describes.

    Raises:
        JaxptError: something it asks for is not implemented, by name.
    """
    heads, embed = keys.need("num_attention_heads"), keys.need("hidden_size")
    positions = keys.get("max_position_embeddings", 2048)
    facts: dict[str, Any] = {
        "vocab_size": keys.need("vocab_size"),
        "embed": embed,
        "mlp": keys.need("intermediate_size"),
        "heads": heads,
        "kv_heads": keys.get("num_key_value_heads", heads),
        "head_dim": keys.get("head_dim", embed // heads),
        "layers": uniform_layers(keys.need("num_hidden_layers")),
        "norm_eps": keys.get("rms_norm_eps", 1e-6),
        "activation": keys.activation(family.activation_key, family.activation),
        "tie_embeddings": keys.get("tie_word_embeddings", family.tied),
        "rope": keys.rope(family.theta, positions),
        "max_positions": positions,
    }
    facts |= family.fixed
    facts |= family.read(keys, facts)
    keys.finish()
    return ModelConfig(**facts)


def write_config(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Returns the config.json of a model.

    Raises:
        JaxptError: the model has a fact that the family cannot express.
    """
    foreign = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    out = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed,
        "intermediate_size": config.mlp,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        family.activation_key: foreign[config.activation],
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "rope_parameters": write_rope(config.rope),
        "rope_theta": config.rope.theta,
        **family.write(config),
    }
    again = _facts(read_config(family, Keys(out, "the exported config")))
    for name, value in _facts(config).items():
        if name not in again or again[name] != value:
            raise JaxptError(f"export: the family {family.model_type} cannot express {name}={value!r}")
    return out


def _facts(config: ModelConfig) -> dict[str, Any]:
    """The facts of the forward pass by name; the dense layers' width only where there is such a layer."""
    facts = dict(vars(config))
    if config.moe is not None:
        del facts["moe"]
        facts |= {f"moe.{name}": value for name, value in vars(config.moe).items()}
    if not config.layers_of("dense"):
        del facts["mlp"]
    return facts
