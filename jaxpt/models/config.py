"""What a model is: every fact the forward pass reads, in frozen dataclasses that travel as JSON."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jaxpt.errors import JaxptError, nearest, short
from jaxpt.models.moe_config import MoeConfig

RopeKind = Literal["default", "linear", "llama3", "yarn"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
NormPosition = Literal["pre", "post", "pre_post"]
NormCastOrder = Literal["gain_after_cast", "gain_before_cast"]
QkNorm = Literal["none", "head", "full"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding; `kind` names how the frequencies are stretched beyond the original window.

    `llama3` reads `low_freq_factor`, `high_freq_factor`; `yarn` reads `beta_fast`, `beta_slow`, `truncate` and
    `attention_factor` (None: `0.1 ln(factor) + 1`); both read `factor` and `original_max_positions`; `linear` reads
    `factor`. `inv_freq`, of head_dim / 2 entries in radians per position, replaces the computed table (head_dim cuts
    keep a subset of the parent's frequencies, which no formula gives).
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True
    inv_freq: tuple[float, ...] | None = None


@dataclass(frozen=True)
class LayerSpec:
    """What may differ between the layers of one model.

    `window` is the number of positions a query sees, itself included (only with `attention="window"`). `rope` picks
    `ModelConfig.rope` ("global"), `ModelConfig.rope_local` ("local") or no rotation ("none").
    """

    attention: Literal["full", "window"] = "full"
    window: int | None = None
    rope: Literal["global", "local", "none"] = "global"
    ffn: Literal["dense", "moe"] = "dense"


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape and the facts of its forward pass; parameters are declared by `jaxpt.models.specs`.

    `norm_position`: "pre" normalises a branch's input, "post" its output (OLMo 2), "pre_post" both (Gemma 2).
    `norm_cast_order`: whether RMSNorm's gain multiplies after or before the cast back to the compute dtype.
    `qk_norm`: RMSNorm of queries and keys per head ("head", gain `[h]`) or across heads ("full", gain `[H, h]`); left
    out, it is "head" for a model with mixtures of experts, which train more stably so (Muennighoff et al. 2024, arXiv
    2409.02060), and "none" for others.
    `attention_scale` None means `head_dim ** -0.5`; `qk_norm_eps` None means `norm_eps`. `embed_scale` multiplies the
    embedded tokens (rounded to the compute dtype first), `residual_scale` each branch, `logit_scale` the logits.

    Raises:
        JaxptError: a value out of range or two that contradict each other, by name.
    """

    vocab_size: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    layers: tuple[LayerSpec, ...]
    activation: Activation = "silu"
    norm_position: NormPosition = "pre"
    norm_eps: float = 1e-5
    qk_norm_eps: float | None = None
    norm_gain_offset: int = 0
    norm_cast_order: NormCastOrder = "gain_after_cast"
    qk_norm: QkNorm | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    tie_embeddings: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    rope_local: RopeConfig | None = None
    max_positions: int = 2048
    moe: MoeConfig | None = None

    def __post_init__(self) -> None:
        if self.qk_norm is None:
            object.__setattr__(self, "qk_norm", "none" if self.moe is None else "head")
        for name in ("vocab_size", "embed", "heads", "kv_heads", "head_dim", "mlp", "max_positions"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise JaxptError(f"model.{name} is {value!r}, it must be a whole number of at least 1")
        choices = {
            "activation": Activation,
            "norm_position": NormPosition,
            "norm_cast_order": NormCastOrder,
            "qk_norm": QkNorm,
        }
        for name, kinds in choices.items():
            _choice(f"model.{name}", getattr(self, name), get_args(kinds))
        if self.norm_gain_offset not in (0, 1):
            raise JaxptError(f"model.norm_gain_offset is {self.norm_gain_offset!r}, it must be 0 or 1")
        if self.heads % self.kv_heads:
            raise JaxptError(f"model.heads is {self.heads}, not a multiple of model.kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise JaxptError(f"model.head_dim is {self.head_dim}; RoPE rotates pairs, so it must be even")
        if not self.layers:
            raise JaxptError("model.layers is empty; give at least one LayerSpec")
        for i, layer in enumerate(self.layers):
            self._check_layer(i, layer)
        _check_numbers("model", self)
        for name in ("rope", "rope_local"):
            rope = getattr(self, name)
            if rope is not None:
                _check_numbers(f"model.{name}", rope)
                _check_rope(f"model.{name}", rope, self.head_dim)

    def _check_layer(self, i: int, layer: LayerSpec) -> None:
        _choice(f"model.layers[{i}].attention", layer.attention, ("full", "window"))
        _choice(f"model.layers[{i}].rope", layer.rope, ("global", "local", "none"))
        _choice(f"model.layers[{i}].ffn", layer.ffn, ("dense", "moe"))
        if layer.ffn == "moe" and self.moe is None:
            raise JaxptError(f"model.layers[{i}].ffn is 'moe' but model.moe is not set")
        if (layer.attention == "window") != (layer.window is not None):
            raise JaxptError(f"model.layers[{i}]: attention={layer.attention!r} does not go with window={layer.window}")
        if layer.window is not None and layer.window < 1:
            raise JaxptError(f"model.layers[{i}].window is {layer.window}, it must be at least 1 (the query itself)")
        if layer.rope == "local" and self.rope_local is None:
            raise JaxptError(f"model.layers[{i}].rope is 'local' but model.rope_local is not set")

    @property
    def group(self) -> int:
        """Query heads that share one kv head."""
        return self.heads // self.kv_heads

    @property
    def scale(self) -> float:
        """What queries are multiplied with before the dot product."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def layers_of(self, structure: str) -> tuple[int, ...]:
        """Global numbers of the layers stacked under `params["blocks"][structure]`, in stacking order."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.ffn == structure)

    def replace(self, **changes: Any) -> "ModelConfig":
        """Returns a copy with fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as JSON-ready plain values; runs of equal layers are written once with a count."""
        out = dataclasses.asdict(self)
        runs: list[dict[str, Any]] = []
        for layer in self.layers:
            entry = dataclasses.asdict(layer)
            if runs and {k: v for k, v in runs[-1].items() if k != "count"} == entry:
                runs[-1]["count"] += 1
            else:
                runs.append({**entry, "count": 1})
        out["layers"] = runs
        return out

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Builds a config from `to_dict`'s form; `layers` may also be a plain number of equal full-attention layers.

        Raises:
            JaxptError: an unknown or a missing key, named with its nearest neighbour.
        """
        values = dict(values)
        layers = values.get("layers", ())
        if isinstance(layers, int):
            values["layers"] = uniform_layers(layers)
        elif isinstance(layers, str) or not all(isinstance(entry, Mapping) for entry in layers):
            raise JaxptError(
                f"model.layers is {layers!r}, it must be a number of layers or a list of {{ffn, window, …}}"
            )
        else:
            made: list[LayerSpec] = []
            for i, entry in enumerate(layers):
                entry = dict(entry)
                count = entry.pop("count", 1)
                made += [_build(LayerSpec, entry, f"model.layers[{i}]")] * count
            values["layers"] = tuple(made)
        for name in ("rope", "rope_local"):
            if values.get(name) is not None:
                rope = dict(values[name])
                if rope.get("inv_freq") is not None:
                    rope["inv_freq"] = tuple(rope["inv_freq"])
                values[name] = _build(RopeConfig, rope, f"model.{name}")
        if values.get("moe") is not None:
            values["moe"] = _build(MoeConfig, dict(values["moe"]), "model.moe")
        return _build(cls, values, "model")


def uniform_layers(count: int, **kinds: Any) -> tuple[LayerSpec, ...]:
    """Returns `count` equal layers."""
    return (LayerSpec(**kinds),) * count


def _choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise JaxptError(f"{name} is {value!r}, it must be one of {', '.join(known)}{nearest(value, known)}")


def _check_numbers(where: str, values: Any) -> None:
    """Refuses a field for a real number that holds anything else, NaN and infinities included."""
    for field_ in dataclasses.fields(values):
        value = getattr(values, field_.name)
        if field_.type not in (float, float | None) or (value is None and field_.type is not float):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise JaxptError(f"{where}.{field_.name} is {short(value)}, it must be a finite number")


def _check_rope(name: str, rope: RopeConfig, head_dim: int) -> None:
    _choice(f"{name}.kind", rope.kind, get_args(RopeKind))
    if rope.inv_freq is not None and len(rope.inv_freq) != head_dim // 2:
        raise JaxptError(f"{name}.inv_freq has {len(rope.inv_freq)} entries, head_dim {head_dim} needs {head_dim // 2}")
    if rope.kind in ("llama3", "yarn") and rope.original_max_positions < 1:
        raise JaxptError(f"{name}.original_max_positions is needed by kind={rope.kind!r}, it is not set")


def _build(cls: Any, values: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise JaxptError(f"{where}.{key} is not a key{nearest(key, fields)}")
    missing = [
        n
        for n, f in fields.items()
        if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise JaxptError(f"{where} lacks {', '.join(missing)}")
    return cls(**values)
