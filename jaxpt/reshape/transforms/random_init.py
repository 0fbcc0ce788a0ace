"""The baseline of all cuts: a fresh model of the target shape."""

from dataclasses import dataclass

from jaxpt.models import ModelConfig
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.subclone import random_init
from jaxpt.reshape.target import lengths
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class RandomInit(Transform):
    """Draws the target's parameters at random; nothing of the model but its shape is used."""

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses what a cut to the same target would be refused for."""
        lengths(config, setting.target)

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the rewrite."""
        return random_init(config, setting.target, setting.seed).target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite without any of the source's parameters."""
        return [random_init(source.config, setting.target, setting.seed)]
