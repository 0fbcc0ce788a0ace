"""Mixture weights: numbers, groups and sizes, as one number per source; a run's stages as the data sees them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxpt.data.pose import Pose
from jaxpt.data.source_targets import SourceTargets
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class StageData:
    """Steps [first_step, first_step + steps) of `batch_size` rows of `sequence_length` tokens, mixed by `weights`.

    `pose` lets positions skip; `targets` are a teacher's, that come with each row.
    """

    first_step: int
    steps: int
    batch_size: int
    sequence_length: int
    weights: Mapping[str, float]
    pose: Pose | None = None
    targets: SourceTargets | None = None


SIZE = "size"  # a weight that is the source's own size


def flat_weights(
    mixture: Mapping[str, object], sizes: Mapping[str, float] | None = None, where: str = "mixture"
) -> dict[str, float]:
    """Returns a mixture with groups and sizes resolved to a number per source.

    A group is `{"weight": its share, "sources": the mixture inside}`: `{"math": {"weight": 0.4, "sources":
    {"synthetic": 0.7, "web": 0.3}}}` gives synthetic 0.28 and web 0.12. Sources whose weight is `"size"` share in
    proportion to their sizes what the numbers beside them leave of 1 (all of it where there are none).

    Args:
        mixture: numbers, groups and `"size"` by name; a group's name is free.
        sizes: per source, in rows or tokens; None: only names and numbers are checked, each size counts 1.
        where: the mixture's key in error messages.

    Raises:
        JaxptError: a source named twice, an invalid weight, a group without `weight` or `sources`, numbers that
            leave nothing to share.
    """
    out: dict[str, float] = {}
    by_size = [n for n, value in mixture.items() if value == SIZE]
    for name, value in mixture.items():
        if name in by_size:
            part = {name: 0.0}
        elif isinstance(value, Mapping):
            part = _group(value, sizes, f"{where}.{name}")
        else:
            part = {name: _number(value, f"{where}.{name}")}
        for n in part:
            if n in out:
                raise JaxptError(f"{where}: source {n!r} is given twice")
        out |= part
    if by_size:
        left = 1 - sum(out.values())
        if left <= 0:
            raise JaxptError(f"{where}: the numbers sum to {1 - left:g}, nothing is left of 1 to share by size")
        size = {n: 1.0 if sizes is None else float(sizes[n]) for n in by_size}
        out |= {n: left * s / sum(size.values()) for n, s in size.items()}
    return out


def _group(value: Mapping[str, object], sizes: Mapping[str, float] | None, where: str) -> dict[str, float]:
    if set(value) != {"weight", "sources"} or not isinstance(value["sources"], Mapping):
        raise JaxptError(
            f"{where} is a group: give it `weight`, its share of the whole, and `sources`, its own mixture"
        )
    share = _number(value["weight"], f"{where}.weight")
    parts = flat_weights(value["sources"], sizes, f"{where}.sources")
    total = sum(parts.values())
    if not total > 0:
        raise JaxptError(f"{where}: the weights inside the group sum to {total:g}")
    return {n: share * w / total for n, w in parts.items()}


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise JaxptError(f"{where} is {value!r}: a weight must be at least 0, {SIZE!r}, or a group")
    return value


def row_weights(token_weights: Mapping[str, float], mean_fill: Mapping[str, float]) -> dict[str, float]:
    """Returns weights of row slots for weights given in real tokens: each divided by the source's mean fill."""
    return {name: w / mean_fill[name] for name, w in token_weights.items()}
