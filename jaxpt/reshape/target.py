"""The shape that is asked for, checked against the model it is cut from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig

LENGTHS = ("layers", "embed", "heads", "kv_heads", "head_dim", "mlp")


@dataclasses.dataclass(frozen=True)
class Target:
    """Lengths of the model that is wanted; None: as in the source."""

    layers: int | None = None
    embed: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp: int | None = None


def lengths(config: ModelConfig, target: "Target | Mapping[str, Any]") -> dict[str, int]:
    """Returns every length of the target, those not asked for being the source's.

    Without `heads`, `kv_heads` cuts whole groups and so brings the heads along.

    Args:
        config: the source.
        target: a `Target`, or a mapping with some of its keys; fields of `ModelConfig` that are no lengths may be
            given if they equal the source's.

    Raises:
        JaxptError: an unknown key; a change of module type; a length above the source's, below 1 or odd for head_dim;
            heads that are no multiple of kv_heads, or more per kv head than the source has.
    """
    asked = dataclasses.asdict(target) if dataclasses.is_dataclass(target) else dict(target)
    asked = {k: v for k, v in asked.items() if v is not None}
    fields = {f.name for f in dataclasses.fields(ModelConfig)}
    for key, value in asked.items():
        if key in LENGTHS:
            continue
        if key not in fields:
            raise JaxptError(f"target.{key} is not a length{nearest(key, LENGTHS)}; they are {', '.join(LENGTHS)}")
        if value != getattr(config, key):
            raise JaxptError(
                f"target.{key} is {value!r}, the source has {getattr(config, key)!r}: a cut keeps the kind of every "
                f"module; leave {key} out of the target"
            )
    have = {name: len(config.layers) if name == "layers" else int(getattr(config, name)) for name in LENGTHS}
    want = have | {k: asked[k] for k in LENGTHS if k in asked}
    if "kv_heads" in asked and "heads" not in asked:
        want["heads"] = want["kv_heads"] * config.group
    for name in LENGTHS:
        _check_length(name, want[name], have[name])
    if want["heads"] % want["kv_heads"]:
        raise JaxptError(
            f"target.heads is {want['heads']}, not a multiple of target.kv_heads ({want['kv_heads']}); "
            f"try {want['heads'] // want['kv_heads'] * want['kv_heads'] or want['kv_heads']}"
        )
    if want["heads"] // want["kv_heads"] > config.group:
        raise JaxptError(
            f"target.heads is {want['heads']} over {want['kv_heads']} kv heads, more per kv head than the source's "
            f"{config.group}; set target.heads={want['kv_heads'] * config.group}, or merge kv heads (merge_kv) first"
        )
    if want["head_dim"] % 2:
        raise JaxptError(f"target.head_dim is {want['head_dim']}; RoPE rotates pairs, so it must be even")
    return want


def _check_length(name: str, want: Any, have: int) -> None:
    if not isinstance(want, int) or isinstance(want, bool) or want < 1:
        raise JaxptError(f"target.{name} is {want!r}, it must be a whole number of at least 1")
    if want > have:
        raise JaxptError(
            f"target.{name} is {want}, larger than the source's {have}; this transform only cuts: use a transform that "
            f"grows for {name}"
        )
