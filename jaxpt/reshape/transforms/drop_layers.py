"""Leaves named layers out."""

from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.models import ModelConfig
from jaxpt.reshape.depth import drop_layers
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class DropLayers(Transform):
    """Leaves the layers `drop` out.

    The target is not read.
    """

    drop: tuple[int, ...] = option((), "numbers of the layers that go, from 0")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the rewrite."""
        return drop_layers(config, self.drop).target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite.

        Raises:
            JaxptError: a layer that is not there, or none that is left.
        """
        return [drop_layers(source.config, self.drop)]
