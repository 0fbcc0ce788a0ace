"""The cut at the end of mask training: what its final masks leave."""

from dataclasses import dataclass

from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig
from jaxpt.reshape.masks import HostGates, shear
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class CutByMasks(Transform):
    """Cuts a run of mask training by the masks that it has learned.

    Counts are exact, positions that stay count whole; gates that are not 1 by construction are multiplied into the
    weights once. The result computes what the run's model does under its final masks.
    """

    @property
    def reads_masks(self) -> bool:
        """It does."""
        return True

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses a model without masks."""
        self._masks(setting)

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """Returns the shape that the masks leave."""
        return shear(config, self._masks(setting))[-1].target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns the gates' folding where they are not 1, and the cut."""
        return shear(source.config, self._masks(setting))

    def _masks(self, setting: ReshapeSetting) -> HostGates:
        if setting.masks is None:
            raise JaxptError(
                "config.transforms: shear cuts what mask training has left; give it as the first, --from=RUN"
            )
        return setting.masks
