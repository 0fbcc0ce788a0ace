"""A mixture of experts out of a dense model."""

from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform
from jaxpt.reshape.upcycle import Upcycling, upcycle


@dataclass(frozen=True)
class Upcycle(Transform):
    """Turns dense layers into mixtures of experts.

    They are `layers` by number, else every `every`-th behind the first `dense_first`.
    """

    mixture: Upcycling | None = option(None, "the mixture, e.g. {'experts': 8, 'experts_per_token': 2}; must be given")
    layers: tuple[int, ...] = option((), "numbers of the layers, from 0; empty: as every and dense_first say")
    every: int = option(1, "of so many layers one becomes a mixture")
    dense_first: int = option(0, "so many layers at the start stay dense")

    def __post_init__(self) -> None:
        if self.mixture is None:
            raise JaxptError("mixture must be given, e.g. {'experts': 8, 'experts_per_token': 2}")
        for name, least in (("every", 1), ("dense_first", 0)):
            if (value := getattr(self, name)) < least:
                raise JaxptError(f"{name} is {value}, it must be at least {least}")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the rewrite."""
        return self._upcycle(config, setting).target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite.

        Raises:
            JaxptError: layers that are not dense, or widths that do not divide.
        """
        return [self._upcycle(source.config, setting)]

    def _upcycle(self, config: ModelConfig, setting: ReshapeSetting) -> Rewrite:
        assert self.mixture is not None
        layers = self.layers or range(self.dense_first, len(config.layers), self.every)
        return upcycle(config, self.mixture, layers, setting.seed)
