"""Fewer layers, removed one by one and scored again after each."""

from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.models import ModelConfig
from jaxpt.reshape.prune_depth import prune_depth
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class PruneDepth(Transform):
    """Removes layers until `target.layers` are left; needs calibration data."""

    by: Literal["influence", "loss"] = option("influence", "drop the least Block Influence, or what costs least loss")
    rescale: bool = option(True, "restore the stream's norm after each removal")

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses to go without data or without `target.layers`."""
        setting.need_data("prune_depth")
        setting.wanted("layers", "prune_depth")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """The first layers stand for those that stay."""
        return config.replace(layers=config.layers[: setting.wanted("layers", "prune_depth")])

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite per removed layer.

        Raises:
            JaxptError: more layers wanted than there are.
        """
        layers = setting.wanted("layers", "prune_depth")
        return prune_depth(source, layers, setting.batches, by=self.by, rescale=self.rescale, compute=setting.compute)
