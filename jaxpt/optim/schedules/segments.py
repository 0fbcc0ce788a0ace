"""Any schedule at all, piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.optim.schedule import Piece, Schedule


@dataclass(frozen=True)
class Segments(Schedule):
    """Pieces as they are listed: each a shape, a duration and the multiple of the peak at its end."""

    segments: tuple[Piece, ...] = option((), "the pieces, in order: {shape, duration, end}")
    start: float = option(0.0, "multiple of the peak where the first piece starts")  # type: ignore[misc]

    def pieces(self) -> Sequence[Piece]:
        """The pieces as they are listed."""
        return self.segments
