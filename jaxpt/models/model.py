"""A model in hand: config, parameters, and what belongs to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params
from jaxpt.models.specs import flatten, param_specs


@dataclass(frozen=True)
class Model:
    """`(ModelConfig, params)` with its tokenizer and lineage; what transforms take and return.

    `params` is a nested dict of arrays as `param_specs(config)` declares it. `lineage` holds one dict per step that
    led here, the oldest first.
    """

    config: ModelConfig
    params: Params = field(repr=False)
    tokenizer: Any = field(default=None, repr=False)
    lineage: tuple[Mapping[str, Any], ...] = ()

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The name of each dimension of each parameter: `{"blocks/dense/q": ("layers", "embed", …)}`."""
        return {path: spec.axes for path, spec in flatten(param_specs(self.config)).items()}
