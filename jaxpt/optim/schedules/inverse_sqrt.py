"""Warmup, then the inverse square root of what is done (Vaswani et al., arXiv 1706.03762; Zhai et al., 2106.04560)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpt.config.choice import option
from jaxpt.config.duration import parse
from jaxpt.errors import JaxptError
from jaxpt.optim.curve import LAW, Moment
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """Warmup W, then the peak times sqrt(τ / (τ + t - W)), and a decay if one is wanted.

    With τ = W, the default, that is sqrt(W / t). It counts steps, or tokens where `timescale` (else `warmup`) does.
    """

    warmup: str = option("1000 steps", 'rise from 0 to the peak: "500 steps" or "2M tokens"')
    timescale: str = option("", 'τ: "10k steps" or "5B tokens"; left out: the warmup')
    decay: str = option("0 steps", "length of the decay at the stage's end")
    decay_shape: str = option("linear", "linear, cosine, sqrt or exponential")
    end: float = option(0.0, "multiple, at the stage's end, of the rate at which the decay begins")
    relative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not parse(self._timescale, "timescale").amount > 0:
            raise JaxptError(f"timescale is {self._timescale!r}; give one, or a warmup, that is more than nothing")

    @property
    def _timescale(self) -> str:
        return self.timescale or self.warmup

    def pieces(self) -> Sequence[Piece]:
        """Three pieces."""
        return [
            Piece("linear", self.warmup, 1.0),
            Piece(LAW, "rest", 0.0),
            Piece(self.decay_shape, self.decay, self.end),
        ]

    def law(self, at: Moment) -> float:
        """As `Schedule.law`."""
        tau = parse(self._timescale, "timescale")
        done = at.steps - at.law_steps if tau.unit == "steps" else at.tokens - at.law_tokens
        return math.sqrt(tau.amount / (tau.amount + done))
