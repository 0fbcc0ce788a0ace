"""The keys of `configs/reshape/*`: which transforms, to which shape, scored on what."""

import itertools
from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.reshape.data_config import CalibrationConfig, HeldOutConfig
from jaxpt.reshape.target import Target
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class ReshapeConfig:
    """All of a reshape."""

    transforms: tuple[Transform, ...] = option(doc="what is done, in order")
    target: Target = option(Target(), "lengths of the model that is wanted; None: as in the source")
    calibration: CalibrationConfig = option(CalibrationConfig(), "what scores and second moments are taken from")
    held_out: HeldOutConfig = option(HeldOutConfig(), "rows on which the loss is measured before and after")
    scores: str | None = option(None, "a file to read scores from, or to keep them in where it is not there yet")
    seed: int = option(0, "of everything that is drawn")

    def __post_init__(self) -> None:
        if not self.transforms:
            raise JaxptError("config.transforms is empty; give at least one transform")
        for part, name in itertools.product(("calibration", "held_out"), ("batches", "batch_size")):
            if (value := getattr(getattr(self, part), name)) < 1:
                raise JaxptError(f"config.{part}.{name} is {value}, it must be at least 1")
