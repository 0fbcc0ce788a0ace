"""A deeper model: identity blocks, or layers that run more than once."""

from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.models import ModelConfig
from jaxpt.reshape.grow_target import deepen
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class GrowDepth(Transform):
    """Makes the model `target.layers` deep.

    See `jaxpt.reshape.grow_target.deepen`.
    """

    how: Literal["llama_pro", "stack", "interpolate", "depth_up_scale"] = option(
        "llama_pro", "blocks that start as nothing, the stack again, each layer again, or two overlapping copies"
    )

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses a target without layers."""
        setting.wanted("layers", "grow_depth")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the rewrite."""
        return deepen(config, setting.wanted("layers", "grow_depth"), self.how).target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite.

        Raises:
            JaxptError: a depth that `how` cannot make.
        """
        layers = setting.wanted("layers", "grow_depth")
        return [deepen(source.config, layers, self.how)]
