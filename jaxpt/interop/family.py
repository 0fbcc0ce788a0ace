"""What one family of foreign models is: its tensors, and its config in both directions."""

from collections.abc import Callable, Mapping, Sequence
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
    `limits` refuse, with a `JaxptError`, what a config.json can say and the family's readers do not load.
    """

    model_type: str
    architecture: str
    tensors: tuple[Tensor, ...]
    fixed: Mapping[str, object]
    read: Callable[[Keys, SharedFacts], Mapping[str, object]]
    write: Callable[[ModelConfig], dict[str, object]]
    absent: Mapping[str, object] = field(default_factory=dict)
    activation_key: str = "hidden_act"
    limits: tuple[Callable[[ModelConfig], None], ...] = ()


def read_config(family: Family, values: Mapping[str, object], where: str, inert: Sequence[str] = ()) -> ModelConfig:
    """Returns the ModelConfig that a config.json describes; `where` names it in errors.

    `inert` are keys that do not change the forward pass by the user's word.

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
    keys.finish(inert)
    try:
        return ModelConfig(**every)
    except JaxptError as e:
        raise JaxptError(f"{where}: {e}") from e


def write_config(family: Family, config: ModelConfig) -> dict[str, object]:
    """Returns the config.json that a family writes for a model; what it has no key for is left to `form_of`.

    Raises:
        JaxptError: something that must be there has no foreign form, or the family's readers refuse the result.
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
        "rms_norm_eps": float(config.norm_eps),  # readers that check types refuse a whole number
        family.activation_key: foreign[config.activation],
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        **write_rope(config.rope),
        **family.write(config),
    }
    for limit in family.limits:
        limit(config)
    return out


def whole_embed_per_head(config: ModelConfig) -> None:
    """A limit: transformers refuses a hidden size that the heads do not divide, `head_dim` given or not.

    Raises:
        JaxptError: they do not, with the nearest widths.
    """
    if over := config.embed % config.heads:
        low, high = config.embed - over, config.embed - over + config.heads
        near = f"{low} or {high}" if low else str(high)
        raise JaxptError(
            f"hidden_size={config.embed} must be a multiple of num_attention_heads={config.heads}; "
            f"make target.embed {near}, or target.heads a divisor of {config.embed}"
        )
