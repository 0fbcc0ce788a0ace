"""Warmup, then the peak."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """Warmup, then the peak for the rest of the stage."""

    warmup: str = option("0 steps", 'rise from 0 to the peak: "500 steps", "2M tokens" or "10%" of the stage')

    def pieces(self) -> Sequence[Piece]:
        """Two pieces."""
        return [Piece("linear", self.warmup, 1.0), Piece("constant", "rest", 1.0)]
