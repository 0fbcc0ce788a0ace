"""Maximal-update parameterisation (µP): what initialisation and forward pass owe to a model's width and depth.

Hyper-parameters found on a small base shape then hold on wider and deeper ones: Yang et al. 2022 (Tensor Programs V,
arXiv 2203.03466, table 8) for width, Dey et al. 2025 (CompleteP, arXiv 2505.01618) for depth. All rules are read off
the axis table; those of learning rate, weight decay and ε are in `jaxpt.optim.multipliers`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.models.specs import ParamSpec, Specs, map_specs, param_specs

WIDTHS = ("embed", "mlp", "heads", "kv_heads", "head_dim", "expert_mlp", "shared_mlp")  # axes that grow with a model
Role = Literal["vector", "matrix", "head", "output"]
Depth = Literal["complete", "sqrt", "none"]
ALPHA: Mapping[Depth, float | None] = {"complete": 1.0, "sqrt": 0.5, "none": None}


@dataclass(frozen=True)
class BaseShape:
    """The shape at which µP is standard parameterisation: where hyper-parameters were found."""

    embed: int | None = option(None, "width of the residual stream")
    mlp: int | None = option(None, "width of the feed-forward network")
    heads: int | None = option(None, "query heads")
    head_dim: int | None = option(None, "width of a head; left out: the model's, which is best kept the same")
    expert_mlp: int | None = option(None, "width of one expert, of a model that has experts")
    shared_mlp: int | None = option(None, "width of all shared experts together, of a model that has them")
    layers: int | None = option(None, "layers")


@dataclass(frozen=True)
class MupConfig:
    """µP: a base shape, and what the rules leave open. Multipliers of the model section are those of the base shape."""

    base: BaseShape = option(BaseShape(), "the shape at which nothing changes")
    embed_alpha: float = option(1.0, "multiplies embedded tokens")
    output_alpha: float = option(1.0, "multiplies logits, which are divided by the width multiplier")
    attention_alpha: float = option(1.0, "multiplies attention's logits, which go with 1 / head_dim")
    depth: Depth = option("complete", "a branch has r^-1 (complete), r^-½ (sqrt) or nothing; r = layers / base.layers")
    weight_decay: Literal["independent", "sqrt", "none"] = option(
        "independent", "what makes up for the multiplied learning rate in decay: all of it, its root, nothing"
    )
    eps: Literal["scaled", "constant"] = option("scaled", "ε falls with width and depth as gradients do, or stays")
    head_init: Literal["normal", "zeros"] = option("normal", "first values of an untied head")
    query_init: Literal["normal", "zeros"] = option("normal", "first values of the queries' matrices")

    def __post_init__(self) -> None:
        for name in ("embed_alpha", "output_alpha", "attention_alpha"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise JaxptError(f"{name} is {value}, it must be above 0")
        for field in dataclasses.fields(self.base):
            length = getattr(self.base, field.name)
            if length is not None and length < 1:
                raise JaxptError(f"base.{field.name} is {length}, it must be at least 1")


@dataclass(frozen=True)
class Scaling:
    """A model's shape against the base: `widths` by axis and `depth` are multiples of the base's lengths."""

    config: MupConfig
    widths: Mapping[str, float]
    depth: float

    @property
    def alpha(self) -> float | None:
        """Exponent of the branches' multiplier `depth^-alpha`; None: depth is not scaled."""
        return ALPHA[self.config.depth]

    @property
    def branch(self) -> float:
        """Multiplier of each residual branch."""
        return 1.0 if self.alpha is None else self.depth**-self.alpha

    def width(self, spec: ParamSpec) -> float:
        """Returns m, by how much the fan-in of a parameter is wider than at the base shape; 1 where it has none."""
        return math.prod(self.widths.get(axis, 1.0) for axis in spec.fan_in_axes)


def role(spec: ParamSpec) -> Role:
    """Returns which rule of µP a parameter is under.

    "vector": what no width is contracted with (embedding, also of a tied head; gains, biases). "matrix": from width to
    width. "head": from width to the vocabulary, whose logits are divided by m. "output": from width to a number that
    does not grow and without a multiplier (router, the shared experts' score): first values and learning rate have 1/m.
    """
    if not set(spec.fan_in_axes) & set(WIDTHS):
        return "vector"
    if set(spec.fan_out_axes) & set(WIDTHS):
        return "matrix"
    return "head" if "vocab" in spec.fan_out_axes else "output"


def scaling(config: MupConfig, model: ModelConfig, where: str = "config.mup") -> Scaling:
    """Returns `model` against the base shape of `config`.

    Raises:
        JaxptError: a length of the base that the model needs is missing, or one of an axis that the model lacks.
    """
    have: dict[str, int | None] = {"embed": model.embed, "heads": model.heads, "head_dim": model.head_dim}
    have["mlp"] = model.mlp if model.layers_of("dense") else None
    experts = model.moe if model.layers_of("moe") else None
    have["expert_mlp"] = experts.mlp if experts else None
    have["shared_mlp"] = (experts.shared_mlp or None) if experts else None
    have["layers"] = len(model.layers)
    ratios: dict[str, float] = {}
    for axis, length in have.items():
        base = getattr(config.base, axis)
        if length is None:
            if base is not None and axis != "mlp":
                raise JaxptError(f"{where}.base.{axis} is {base}, the model has no {axis}; remove it")
            continue
        if base is None and axis != "head_dim":
            raise JaxptError(f"{where}.base.{axis} is missing; the model has {length}, set what the base shape has")
        ratios[axis] = length / (base or length)
    return Scaling(config, {a: r for a, r in ratios.items() if a != "layers"}, ratios["layers"])


def parameterised(model: ModelConfig, scale: Scaling) -> ModelConfig:
    """Returns the model with µP's forward multipliers, facts of the model from then on: a reshape leaves them alone.

    Its own multipliers (`embed_scale`, …) are taken for those of the base shape.
    """
    mup, grown = scale.config, scale.widths["head_dim"]
    attention = model.attention_scale
    if grown != 1 or mup.attention_alpha != 1:
        at_base = (model.head_dim / grown) ** -0.5 if attention is None else attention
        attention = at_base * mup.attention_alpha / grown
    return model.replace(
        embed_scale=model.embed_scale * mup.embed_alpha,
        logit_scale=model.logit_scale * mup.output_alpha / scale.widths["embed"],
        attention_scale=attention,
        residual_scale=model.residual_scale * scale.branch,
    )


def initial_specs(model: ModelConfig, scale: Scaling | None, where: str = "config.mup") -> Specs:
    """Returns the axis table with the first values' deviations under µP; None: as `param_specs` has them.

    What writes to the stream keeps 1 / sqrt(2 L) of the base's L: its growth with depth is the branches' matter.

    Raises:
        JaxptError: a head of zeros where it is the embedding.
    """
    specs = param_specs(model)
    if scale is None:
        return specs
    if scale.config.head_init == "zeros" and model.tie_embeddings:
        raise JaxptError(f"{where}.head_init is 'zeros', but the head is the embedding (tie_embeddings); remove it")
    return map_specs(lambda path, spec: _initial(spec, scale), specs)


def _initial(spec: ParamSpec, scale: Scaling) -> ParamSpec:
    kind, m = role(spec), scale.width(spec)
    if spec.init != "normal" or kind == "vector":
        return spec
    queries = spec.rotary and "heads" in spec.fan_out_axes
    if (kind == "head" and scale.config.head_init == "zeros") or (queries and scale.config.query_init == "zeros"):
        return dataclasses.replace(spec, init="zeros")
    std = spec.init_std / {"matrix": math.sqrt(m), "output": m, "head": 1.0}[kind]
    if spec.residual == "writes":
        std *= math.sqrt(scale.depth)
    return dataclasses.replace(spec, init_std=std)
