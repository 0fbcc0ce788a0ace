"""A run's stages as the data sees them, and mixtures written as groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpt.data.pose import Pose
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class StageData:
    """Steps [first_step, first_step + steps) of `batch_size` rows of `sequence_length` tokens, mixed by `weights`.

    `pose` lets positions skip.
    """

    first_step: int
    steps: int
    batch_size: int
    sequence_length: int
    weights: Mapping[str, float]
    pose: Pose | None = None


def flat_weights(mixture: Mapping[str, Any], where: str = "mixture") -> dict[str, float]:
    """Returns a mixture with groups resolved to sources.

    A group is a mapping with its own `weight` and the mixture inside it, which is scaled to that weight:
    `{"math": {"weight": 0.4, "synthetic": 0.7, "web": 0.3}}` gives synthetic 0.28 and web 0.12.

    Raises:
        JaxptError: a source named twice, a group without `weight` or whose inner weights sum to zero.
    """
    out: dict[str, float] = {}
    for name, value in mixture.items():
        if isinstance(value, Mapping):
            inner = dict(value)
            if "weight" not in inner:
                raise JaxptError(f"{where}.{name} is a group and lacks `weight`, its share of the whole")
            share = inner.pop("weight")
            parts = flat_weights(inner, f"{where}.{name}")
            total = sum(parts.values())
            if not total > 0:
                raise JaxptError(f"{where}.{name}: the weights inside the group sum to {total}")
            found = {n: share * w / total for n, w in parts.items()}
        else:
            found = {name: value}
        for n in found:
            if n in out:
                raise JaxptError(f"{where}: source {n!r} is given twice")
        out |= found
    return out


def row_weights(token_weights: Mapping[str, float], mean_fill: Mapping[str, float]) -> dict[str, float]:
    """Returns weights of row slots for weights given in real tokens: each divided by the source's mean fill."""
    return {name: w / mean_fill[name] for name, w in token_weights.items()}
