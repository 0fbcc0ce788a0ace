"""Warmup, stable, decay (Hu et al., arXiv 2404.06395)."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class Wsd(Schedule):
    """Warmup, then the peak, then a decay at the stage's end."""

    warmup: str = option("0 steps", 'rise from 0 to the peak: "500 steps", "2M tokens" or "10%" of the stage')
    decay: str = option("20%", "length of the decay, at the stage's end")
    decay_shape: str = option("linear", "linear, cosine, sqrt or exponential")
    end: float = option(0.1, "multiple of the peak at the stage's end")

    def pieces(self) -> Sequence[Piece]:
        """Three pieces."""
        return [
            Piece("linear", self.warmup, 1.0),
            Piece("constant", "rest", 1.0),
            Piece(self.decay_shape, self.decay, self.end),
        ]
