"""A model in the form of a family: its config.json, and the scales that the family has no key for put into weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.interop.family import Family, read_config, write_config
from jaxpt.models.config import ModelConfig
from jaxpt.models.specs import ParamSpec, flatten, param_specs

Factors = dict[str, float]  # leaf path -> what its entries (a gain's: with its offset) are multiplied by
Fold = Callable[[ModelConfig, ModelConfig, Mapping[str, ParamSpec]], Factors | None]


@dataclass(frozen=True)
class FamilyForm:
    """How a family holds a model.

    `config` is the model as the family reads it back; where that is not the model's own, `factors` says by what each
    leaf is multiplied and a leaf that the model lacks is zero, so that both compute the same function (in exact
    arithmetic: a factor that is no power of two rounds once). `folded` names the facts, `values` is config.json.
    """

    family: Family
    config: ModelConfig
    values: Mapping[str, object]
    factors: Mapping[str, float]
    folded: tuple[str, ...]
    specs: Mapping[str, ParamSpec]

    def scaled(self, leaf: str, value: np.ndarray) -> np.ndarray:
        """Returns (a part of) a leaf as the family holds it, in its own dtype; the product is made in float32."""
        factor = np.float32(self.factors.get(leaf, 1.0))
        if factor == 1:
            return value
        offset = np.float32(self.specs[leaf].gain_offset)
        return ((value.astype(np.float32) + offset) * factor - offset).astype(value.dtype)


def form_of(family: Family, config: ModelConfig) -> FamilyForm:
    """Returns how `family` holds a model of this config.

    Raises:
        JaxptError: it cannot, named with the fact and, where there is one, the way out.
    """
    try:
        values = write_config(family, config)
        theirs = read_config(family, values, "the exported config")
    except JaxptError as e:
        raise JaxptError(f"export: the family {family.model_type} cannot hold the model: {e}") from e
    specs = flatten(param_specs(config))
    ours, read = facts(config), facts(theirs)
    factors: Factors = {}
    folded = []
    unlike = [name for name, value in ours.items() if name not in read or read[name] != value]
    for name in sorted(unlike, key=lambda name: name in FOLDS):  # what no fold helps is the reason to give
        more = FOLDS[name](config, theirs, specs) if name in FOLDS and name in read else None
        if more is None:
            raise JaxptError(f"export: the family {family.model_type} cannot express {_reason(name, config, theirs)}")
        for leaf, factor in more.items():
            factors[leaf] = factors.get(leaf, 1.0) * factor
        where = sorted({leaf.rpartition("/")[2] for leaf in more}) or ["weights of zero"]
        folded.append(f"{name}={ours[name]!r} (now {read[name]!r}) into {', '.join(where)}")
    return FamilyForm(family, theirs, values, factors, tuple(folded), flatten(param_specs(theirs)))


def _reason(name: str, ours: ModelConfig, theirs: ModelConfig) -> str:
    """The fact in which a family differs and, where there is one, the way out."""
    if name in ("layers", "moe") or name not in facts(theirs):
        if ours.moe is not None and theirs.moe is None:
            return f"moe.experts={ours.moe.experts}: it has no mixtures of experts; leave upcycle out"
        kinds = [sorted({layer.ffn for layer in c.layers}) for c in (ours, theirs)]
        if kinds[0] != kinds[1]:
            return f"layers of the kinds {' and '.join(kinds[0])}, only {' and '.join(kinds[1])}; upcycle every layer"
        if name == "layers":
            return _layers(ours, theirs)
    value = facts(ours)[name]
    return f"{name}={value!r}" + (f"; {WAYS_OUT[name]}" if name in WAYS_OUT else "")


def _layers(ours: ModelConfig, theirs: ModelConfig) -> str:
    """The first layer that the family makes another one of."""
    for i, (have, want) in enumerate(zip(ours.layers, theirs.layers)):
        for field in ("window", "rope"):
            if getattr(have, field) != getattr(want, field):
                return f"layers[{i}].{field}={getattr(have, field)!r} (only {getattr(want, field)!r} there)"
    return "layers as these"


def facts(config: ModelConfig) -> dict[str, object]:
    """The facts of the forward pass by name, defaults worked out; a width only where there are such layers."""
    out = {**vars(config), "attention_scale": config.scale}
    if config.qk_norm_eps is None:
        out["qk_norm_eps"] = config.norm_eps
    if config.qk_norm == "none":
        del out["qk_norm_eps"]
    if config.moe is not None:
        del out["moe"]
        out |= {f"moe.{name}": value for name, value in vars(config.moe).items()}
    if not config.layers_of("dense"):
        del out["mlp"]
    return out


def _embed_scale(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors | None:
    if not theirs.embed_scale:
        return None
    ratio = ours.embed_scale / theirs.embed_scale
    return {"embed/table": ratio, **({"final_norm": 1 / ratio} if ours.tie_embeddings and ratio else {})}


def _logit_scale(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors:
    return {"final_norm" if ours.tie_embeddings else "head": ours.logit_scale / theirs.logit_scale}


def _residual_scale(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors:
    ratio = ours.residual_scale / theirs.residual_scale  # into the last that touches a branch's output
    last = [p for p, s in specs.items() if s.stacked and s.residual == "writes"]
    return {p: ratio for p in last if ours.norm_position == "pre" or specs[p].gain}


def _attention_scale(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors:
    names = ("q", "q_bias") if ours.qk_norm == "none" else ("q_norm",)
    return dict.fromkeys(_leaves(specs, *names), ours.scale / theirs.scale)


def _qk_norm_eps(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors | None:
    """x / sqrt(mean x² + e) is s x / sqrt(mean (s x)² + s² e): what the norm reads is scaled instead of its eps."""
    have, want = (c.norm_eps if c.qk_norm_eps is None else c.qk_norm_eps for c in (ours, theirs))
    if not (have > 0 and want > 0):
        return None
    return dict.fromkeys(_leaves(specs, "q", "q_bias", "k", "k_bias"), (want / have) ** 0.5)


def _route_scale(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors:
    assert ours.moe is not None
    assert theirs.moe is not None
    return dict.fromkeys(_leaves(specs, "expert_down"), ours.moe.route_scale / theirs.moe.route_scale)


def _shared_score(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors | None:
    if ours.moe is None or ours.moe.shared_score:
        return None
    return dict.fromkeys(_leaves(specs, "shared_down"), 2.0)  # a score of zeros is a sigmoid of one half


def _shared_mlp(ours: ModelConfig, theirs: ModelConfig, specs: Mapping[str, ParamSpec]) -> Factors | None:
    return None if ours.moe is None or ours.moe.shared_mlp else {}  # a shared expert of zeros adds zero


def _leaves(specs: Mapping[str, ParamSpec], *names: str) -> list[str]:
    return [path for path in specs if path.rpartition("/")[2] in names]


# fact -> how the difference between what the model says and what the family says goes into weights; None: it does not
FOLDS: dict[str, Fold] = {
    "embed_scale": _embed_scale,
    "logit_scale": _logit_scale,
    "residual_scale": _residual_scale,
    "attention_scale": _attention_scale,
    "qk_norm_eps": _qk_norm_eps,
    "moe.route_scale": _route_scale,
    "moe.shared_score": _shared_score,
    "moe.shared_mlp": _shared_mlp,
}

# fact -> what to change so that a family without a key for it holds the model
WAYS_OUT = {
    "moe.shared_mlp": "upcycle with shared_mlp=0",
    "moe.weights": "upcycle with weights='renormalised'",
    "moe.selection_bias": "upcycle with selection_bias=False",
    "moe.capacity_factor": "train with model.moe.capacity_factor=None",
}
