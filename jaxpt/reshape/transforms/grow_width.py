"""A wider model that starts as its parent."""

from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.models import ModelConfig
from jaxpt.reshape.grow_target import widen
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class GrowWidth(Transform):
    """Makes every axis as long as the target says; the depth stays.

    See `jaxpt.reshape.grow_target.widen`.
    """

    how: Literal["pad", "duplicate", "fpi", "aki"] = option("pad", "what new positions are: zeros, copies, samples")
    fresh: bool = option(True, "pad: draw the side of new positions that may be drawn")
    noise: float = option(0.0, "duplicate, fpi: deviation of noise that cancels between copies")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the last rewrite."""
        return widen(config, setting.target, self.how, fresh=False)[-1].target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite per axis that grows.

        Raises:
            JaxptError: a length below the source's, or a growth that `how` does not have.
        """
        return widen(source.config, setting.target, self.how, fresh=self.fresh, noise=self.noise, seed=setting.seed)
