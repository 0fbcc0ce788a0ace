"""The shape that is asked for, checked against the model it is cut from."""

import dataclasses
from collections.abc import Mapping

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig

LENGTHS = ("layers", "embed", "heads", "kv_heads", "head_dim", "mlp")
KINDS_STAY = "a transform to a target keeps the kind of every module"
MOE_LENGTHS = {"experts": "experts", "expert_mlp": "mlp", "shared_mlp": "shared_mlp"}  # length -> field of MoeConfig


@dataclasses.dataclass(frozen=True)
class Target:
    """Lengths of the model that is wanted; None: as in the source."""

    layers: int | None = option(None, "number of layers")
    embed: int | None = option(None, "width of the residual stream")
    heads: int | None = option(None, "query heads; None beside kv_heads: whole groups come along")
    kv_heads: int | None = option(None, "key and value heads")
    head_dim: int | None = option(None, "size of a head, even")
    mlp: int | None = option(None, "neurons of a dense feed-forward network")
    experts: int | None = option(None, "routed experts of a mixture")
    expert_mlp: int | None = option(None, "neurons of each routed expert")
    shared_mlp: int | None = option(None, "neurons of the shared expert")

    @staticmethod
    def no_key(key: str) -> str:
        """Returns why `key` cannot be a target where it names the kind of a module, else nothing."""
        fields = {f.name for f in dataclasses.fields(ModelConfig)}
        return f": {KINDS_STAY}; leave it out, or change the model before" if key in fields else ""


def lengths_of(config: ModelConfig) -> dict[str, int]:
    """Returns every length of a model; those of experts only where it has some."""
    have = {name: len(config.layers) if name == "layers" else int(getattr(config, name)) for name in LENGTHS}
    if config.moe is not None:
        have |= {name: getattr(config.moe, field) for name, field in MOE_LENGTHS.items()}
    return have


def lengths(config: ModelConfig, target: "Target | Mapping[str, object]") -> dict[str, int]:
    """Returns every length of the target, those not asked for being the source's.

    Without `heads`, `kv_heads` cuts whole groups and so brings the heads along.

    Args:
        config: the source.
        target: a `Target`, or a mapping with some of its keys; fields of `ModelConfig` that are not lengths may be
            given if they equal the source's.

    Raises:
        JaxptError: an unknown key; a change of module type; a length above the source's, below 1 or odd for head_dim;
            heads that are not a multiple of kv_heads, or more per kv head than the source has.
    """
    have = lengths_of(config)
    want = _wanted(config, have, target)
    for name in want:
        _check_length(name, want[name], have[name])
    _check_heads(want)
    if want["heads"] // want["kv_heads"] > config.group:
        raise JaxptError(
            f"target.heads is {want['heads']} over {want['kv_heads']} kv heads, more per kv head than the source's "
            f"{config.group}; set --config.target.heads={want['kv_heads'] * config.group}, or merge kv heads first "
            f"(merge_kv)"
        )
    if config.moe is not None and want["experts"] < config.moe.experts_per_token:
        raise JaxptError(
            f"target.experts is {want['experts']}, fewer than the {config.moe.experts_per_token} that a token goes to"
        )
    return want


def grown_lengths(config: ModelConfig, target: "Target | Mapping[str, object]") -> dict[str, int]:
    """Returns every length of a target that is at least as wide as the source; `layers` may be anything.

    Without `heads`, `kv_heads` adds whole groups and so brings heads along.

    Raises:
        JaxptError: an unknown key, a length below the source's, odd for head_dim, more experts, or heads that are no
            multiple of kv_heads.
    """
    have = lengths_of(config)
    want = _wanted(config, have, target)
    for name in want:
        if want[name] < have[name] and name != "layers":
            raise JaxptError(
                f"target.{name} is {want[name]}, smaller than the source's {have[name]}; this transform only grows: "
                f"use subclone for {name}"
            )
    _check_heads(want)
    if want.get("experts") != have.get("experts"):
        raise JaxptError(f"target.experts is {want['experts']}: experts are made by upcycling, not added to a mixture")
    return want


def _wanted(config: ModelConfig, have: Mapping[str, int], target: "Target | Mapping[str, object]") -> dict[str, int]:
    """The source's lengths with those asked for in their place."""
    asked = dataclasses.asdict(target) if dataclasses.is_dataclass(target) else dict(target)
    asked = {k: v for k, v in asked.items() if v is not None}
    fields = {f.name for f in dataclasses.fields(ModelConfig)}
    for key, value in asked.items():
        if key in have:
            continue
        if key in MOE_LENGTHS:
            raise JaxptError(f"target.{key} is asked for, but the model has no mixture-of-experts layers")
        if key not in fields:
            raise JaxptError(f"target.{key} is not a length{nearest(key, have)}; they are {', '.join(have)}")
        if value != getattr(config, key):
            raise JaxptError(
                f"target.{key} is {value!r}, the source has {getattr(config, key)!r}: {KINDS_STAY}; leave {key} out of "
                "the target"
            )
    want = {name: _whole(name, asked.get(name, length)) for name, length in have.items()}
    if "kv_heads" in asked and "heads" not in asked:
        want["heads"] = want["kv_heads"] * config.group
    return want


def _check_heads(want: Mapping[str, int]) -> None:
    if want["heads"] % want["kv_heads"]:
        raise JaxptError(
            f"target.heads is {want['heads']}, not a multiple of target.kv_heads ({want['kv_heads']}); "
            f"try {want['heads'] // want['kv_heads'] * want['kv_heads'] or want['kv_heads']}"
        )
    if want["head_dim"] % 2:
        raise JaxptError(f"target.head_dim is {want['head_dim']}; RoPE rotates pairs, so it must be even")


def _whole(name: str, want: object) -> int:
    least = 0 if name == "shared_mlp" else 1
    if not isinstance(want, int) or isinstance(want, bool) or want < least:
        raise JaxptError(f"target.{name} is {want!r}, it must be a whole number of at least {least}")
    return want


def _check_length(name: str, want: int, have: int) -> None:
    if want > have:
        raise JaxptError(
            f"target.{name} is {want}, larger than the source's {have}; this transform only cuts: use a transform that "
            f"grows for {name}"
        )
