"""A dense model out of a mixture of experts: the mean of its experts."""

from dataclasses import dataclass

from jaxpt.models import ModelConfig
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform
from jaxpt.reshape.upcycle import average_experts


@dataclass(frozen=True)
class AverageExperts(Transform):
    """Makes each mixture one dense network, the mean of its experts.

    The target is not read.
    """

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the rewrite."""
        return average_experts(config).target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite.

        Raises:
            JaxptError: shared experts, or a layer that is not a mixture.
        """
        return [average_experts(source.config)]
