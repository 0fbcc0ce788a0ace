"""The power schedule (Shen et al., arXiv 2408.13359, eq. 7 and 8): a rate by tokens done and by batch size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.optim.curve import LAW, Moment
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class Power(Schedule):
    """The rate min(peak, β · a · n^b) after n tokens of the run, β being the batch in rows of `row` tokens.

    The rate does not depend on how long the stage is, only its decay does; the stage's `learning_rate` is the upper
    bound (0.02 in the paper). The warmup rises to the value that holds at its end.
    """

    amplitude: float = option(4.0, "a, as a learning rate; divide it as the model's learning rate with µP is")
    exponent: float = option(-0.51, "b")
    row: int = option(4096, "tokens of a row that β counts as one")
    warmup: str = option("0 steps", 'rise from 0: "500 steps", "1B tokens" or "1%" of the stage')
    decay: str = option("10%", "length of the decay at the stage's end")
    decay_shape: str = option("linear", "linear, cosine, sqrt or exponential")
    end: float = option(0.0, "multiple, at the stage's end, of the rate at which the decay begins")
    relative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.amplitude > 0 or not self.exponent <= 0 or self.row < 1:
            given = f"amplitude is {self.amplitude:g}, exponent {self.exponent:g} and row {self.row}"
            raise JaxptError(f"{given}; they must be above 0, at most 0 and at least 1")

    def pieces(self) -> Sequence[Piece]:
        """Three pieces."""
        return [
            Piece("linear", self.warmup, 1.0),
            Piece(LAW, "rest", 0.0),
            Piece(self.decay_shape, self.decay, self.end),
        ]

    def law(self, at: Moment) -> float:
        """As `Schedule.law`."""
        if not at.run_tokens or not at.peak:
            return 1.0
        return min(1.0, at.step_tokens / self.row * self.amplitude * at.run_tokens**self.exponent / at.peak)
