"""A number that moves through a stage from one value to another."""

import math
from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.objectives.objective import Progress


@dataclass(frozen=True)
class Ramp:
    """From `start` at the stage's first step to `end` at its end; `end` None: `start` throughout."""

    start: float = option(doc="value at the stage's first step")
    end: float | None = option(None, "value at the stage's end; None: start throughout")
    shape: Literal["cosine", "linear"] = option("cosine", "of the way between")

    def __call__(self, progress: Progress) -> float:
        """Returns the value at a step."""
        if self.end is None:
            return self.start
        share = progress.share if self.shape == "linear" else (1 - math.cos(math.pi * progress.share)) / 2
        return self.start + (self.end - self.start) * share

    @property
    def values(self) -> tuple[float, float]:
        """First and last value, between which all others lie."""
        return self.start, self.start if self.end is None else self.end

    def __str__(self) -> str:
        first, last = self.values
        return f"{first:g}" if first == last else f"{first:g} to {last:g}, {self.shape}"
