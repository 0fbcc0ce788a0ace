"""What every recovery is: what a run does once its loss is not finite, or spikes again and again."""

from dataclasses import dataclass
from typing import ClassVar

from jaxpt.config.choice import Choice
from jaxpt.optim.guard import Guard


@dataclass(frozen=True)
class Recovery(Choice, kind="recovery", room="jaxpt.training.recoveries", default="stop"):
    """What follows a loss that is not finite or, where the guard sees them, spikes that last."""

    goes_back: ClassVar[bool] = False

    def check(self, where: str, guard: Guard) -> None:
        """Raises a JaxptError for an option out of range, or a guard that it does not go with."""
