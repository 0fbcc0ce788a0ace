"""What one family of foreign models is: its tensors, and its config in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from jaxpt.errors import JaxptError
from jaxpt.interop.keys import ACTIVATIONS, Keys, write_rope
from jaxpt.interop.mapping import Tensor
from jaxpt.models.config import LayerSpec, ModelConfig, RopeConfig, uniform_layers


class SharedFacts(TypedDict):
    """Facts of `ModelConfig` that all families read alike: what a family's `read` is given."""

    vocab_size: int
    embed: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: tuple[LayerSpec, ...]
    norm_eps: float
    activation: str
    tie_embeddings: bool
    rope: RopeConfig
    max_positions: int


ABSENT = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0}


@dataclass(frozen=True)
class Family:
    """`read` turns config.json's keys into facts of `ModelConfig` beyond the shared ones; `write` the reverse.

    `fixed` are the facts that every model of the family has; an export of a model with others is refused by name.
    `absent` is what the family means by a key that config.json leaves out, where it differs from `ABSENT` and "silu".
    """

    model_type: str
    architecture: str
    tensors: tuple[Tensor, ...]
    fixed: Mapping[str, object]
    read: Callable[[Keys, SharedFacts], Mapping[str, object]]
    write: Callable[[ModelConfig], dict[str, object]]
    absent: Mapping[str, object] = field(default_factory=dict)
    activation_key: str = "hidden_act"


def read_config(family: Family, values: Mapping[str, object], where: str) -> ModelConfig:
    """Returns the ModelConfig that a config.json describes; `where` names it in errors.

    Raises:
        JaxptError: something it asks for is not implemented, is missing or contradicts itself, by name.
    """
    keys = Keys(values, where, {**ABSENT, family.activation_key: "silu", **family.absent})
    heads, embed = keys.whole("num_attention_heads"), keys.whole("hidden_size")
    layers = keys.whole("num_hidden_layers")
    for name, value in (("num_attention_heads", heads), ("num_hidden_layers", layers)):
        if value < 1:
            raise keys.refuse(name, "it must be at least 1")
    keys.must_be("is_causal", True)
    positions = keys.whole("max_position_embeddings")
    facts: SharedFacts = {
        "vocab_size": keys.whole("vocab_size"),
        "embed": embed,
        "mlp": keys.whole("intermediate_size"),
        "heads": heads,
        "kv_heads": keys.whole("num_key_value_heads", heads),
        "head_dim": keys.whole("head_dim", embed // heads),
        "layers": uniform_layers(layers),
        "norm_eps": keys.number("rms_norm_eps"),
        "activation": keys.activation(family.activation_key),
        "tie_embeddings": keys.flag("tie_word_embeddings"),
        "rope": keys.rope(positions),
        "max_positions": positions,
    }
    every: dict[str, Any] = {**facts, **family.fixed, **family.read(keys, facts)}
    keys.finish()
    try:
        return ModelConfig(**every)
    except JaxptError as e:
        raise JaxptError(f"{where}: {e}") from e


def write_config(family: Family, config: ModelConfig) -> dict[str, object]:
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
        **write_rope(config.rope),
        **family.write(config),
    }
    again = _facts(read_config(family, out, "the exported config"))
    for name, value in _facts(config).items():
        if name not in again or again[name] != value:
            raise JaxptError(f"export: the family {family.model_type} cannot express {name}={value!r}")
    return out


def _facts(config: ModelConfig) -> dict[str, object]:
    """The facts of the forward pass by name; the dense layers' width only where there is such a layer."""
    facts = dict(vars(config))
    if config.moe is not None:
        del facts["moe"]
        facts |= {f"moe.{name}": value for name, value in vars(config.moe).items()}
    if not config.layers_of("dense"):
        del facts["mlp"]
    return facts
