"""Warmup, then a cosine that begins again and again (SGDR: Loshchilov & Hutter, arXiv 1608.03983, eq. 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from jaxpt.config.choice import option
from jaxpt.config.duration import parse
from jaxpt.errors import JaxptError
from jaxpt.optim.curve import LAW, Moment
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Warmup, then half cosines of a fixed length until the stage ends, the last one perhaps cut.

    The length is in steps or tokens, never a part of the stage, so that a longer stage only appends to it.
    """

    period: str = option("1000 steps", 'length of the first cosine: "1000 steps" or "2B tokens"')
    warmup: str = option("0 steps", 'rise from 0 to the peak: "500 steps" or "2M tokens"')
    growth: float = option(1.0, "each cosine is so many times as long as the one before")
    peaks: float = option(1.0, "each restart goes to so many times the peak of the one before")
    end: float = option(0.1, "multiple of the peak at the end of each cosine")

    def __post_init__(self) -> None:
        if not parse(self.period, "period").amount > 0:
            raise JaxptError(f"period is {self.period!r}, it must be more than nothing")
        if self.growth < 1 or not 0 < self.peaks <= 1:
            raise JaxptError(f"growth is {self.growth:g} and peaks {self.peaks:g}; growth is at least 1, peaks above 0 "
                             f"and at most 1")  # fmt: skip

    def pieces(self) -> Sequence[Piece]:
        """Two pieces."""
        return [Piece("linear", self.warmup, 1.0), Piece(LAW, "rest", 0.0)]

    def law(self, at: Moment) -> float:
        """As `Schedule.law`."""
        period = parse(self.period, "period")
        done: Fraction = Fraction(
            at.steps - at.law_steps if period.unit == "steps" else at.tokens - at.law_tokens
        ) / Fraction(period.amount)
        growth, length = Fraction(self.growth), Fraction(1)
        number = math.floor(done) if growth == 1 else 0
        done -= number
        while done >= length:
            done, length, number = done - length, length * growth, number + 1
        peak = self.peaks**number
        return self.end + (max(peak, self.end) - self.end) * 0.5 * (1 + math.cos(math.pi * float(done / length)))
