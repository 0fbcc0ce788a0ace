"""Warmup, then a straight line down to `end`."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """Warmup, then a straight line over the rest of the stage."""

    warmup: str = option("0 steps", 'rise from 0 to the peak: "500 steps", "2M tokens" or "10%" of the stage')
    end: float = option(0.1, "multiple of the peak at the stage's end")

    def pieces(self) -> Sequence[Piece]:
        """Two pieces."""
        return [Piece("linear", self.warmup, 1.0), Piece("linear", "rest", self.end)]
