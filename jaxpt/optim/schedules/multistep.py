"""Warmup, the peak, then a lower constant rate from each of several places on (DeepSeek LLM, arXiv 2401.02954)."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class Multistep(Schedule):
    """Warmup, then constant rates that drop at places of the stage."""

    warmup: str = option("0 steps", 'rise from 0 to the peak: "500 steps", "2M tokens" or "10%" of the stage')
    at: tuple[str, ...] = option(("80%", "90%"), 'where the rate drops: "80%" of the stage, "500k steps", "2T tokens"')
    values: tuple[float, ...] = option((0.316, 0.1), "multiple of the peak from each of those places on")

    def __post_init__(self) -> None:
        if len(self.at) != len(self.values) or not self.at:
            raise JaxptError(f"at has {len(self.at)} places and values {len(self.values)} entries; give both alike")

    def pieces(self) -> Sequence[Piece]:
        """A piece for each rate."""
        rates = (1.0, *self.values)
        lasting = [Piece("constant", f"until {at}", rate) for at, rate in zip(self.at, rates)]
        return [Piece("linear", self.warmup, 1.0), *lasting, Piece("constant", "rest", rates[-1])]
