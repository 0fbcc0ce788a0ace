"""The keys of `configs/reshape/*`: which transforms, to which shape, scored on what."""

import itertools
from dataclasses import dataclass, field

from jaxpt.errors import JaxptError
from jaxpt.reshape.calibration import CalibrationConfig, HeldOutConfig
from jaxpt.reshape.target import Target
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class ReshapeConfig:
    """All of a reshape. `scores`: a file to read scores from, or to keep them in where it is not there yet."""

    transforms: tuple[Transform, ...]
    target: Target = field(default_factory=Target)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    scores: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.transforms:
            raise JaxptError("config.transforms is empty; give at least one transform")
        for part, name in itertools.product(("calibration", "held_out"), ("batches", "batch_size")):
            if (value := getattr(getattr(self, part), name)) < 1:
                raise JaxptError(f"config.{part}.{name} is {value}, it must be at least 1")
