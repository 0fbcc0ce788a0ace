"""No mean of the parameters."""

from dataclasses import dataclass
from typing import ClassVar

from jaxpt.optim.averaging import Averaging


@dataclass(frozen=True)
class NoMean(Averaging):
    """The parameters alone."""

    keeps: ClassVar[bool] = False
