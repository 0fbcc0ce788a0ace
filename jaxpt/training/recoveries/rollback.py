"""Go back before the trouble, and pass over the rows that made it (PaLM, Chowdhery et al. 2022, section 5.1)."""

import shlex
from dataclasses import dataclass
from typing import ClassVar

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.optim.guard import REMEMBERED, Guard
from jaxpt.training.recovery import Recovery


@dataclass(frozen=True)
class Rollback(Recovery):
    """Restores a checkpoint, replays to `before` steps before the trouble, passes over it and `after` more, goes on.

    Trouble is `spikes` spikes within `within` steps, as the guard counts them, from the first of them to the last; or,
    with a guard that does not skip it, one step that is not finite. Spikes enter the guard's window: with 128 steps and
    6 deviations a level that stays is a spike four times, no more.
    """

    spikes: int = option(3, "so many spikes within `within` steps are trouble")
    within: int = option(50, "steps in which spikes are counted")
    before: int = option(100, "steps before the trouble that are passed over too")
    after: int = option(100, "steps after the trouble that are passed over too")
    most: int = option(5, "rollbacks of a run; where one more would be needed, it stops")
    command: str | None = option(None, "called on each rollback, with RUN FIRST STOP CHECKPOINT behind it")

    goes_back: ClassVar[bool] = True

    def check(self, where: str, guard: Guard) -> None:
        """As `Recovery.check`."""
        if not guard.judges:
            raise JaxptError(
                f"{where}.name is rollback, which needs a guard that looks at steps; set --config.guard.name=observe, "
                f"finite or skip"
            )
        if not 1 <= self.spikes <= REMEMBERED:
            raise JaxptError(f"{where}.spikes is {self.spikes}, it must be 1 to {REMEMBERED}")
        if self.within < self.spikes:
            raise JaxptError(f"{where}.within is {self.within}, fewer steps than spikes ({self.spikes})")
        for name in ("before", "after", "most"):
            if getattr(self, name) < 0:
                raise JaxptError(f"{where}.{name} is {getattr(self, name)}, it must be at least 0")
        try:
            words = shlex.split(self.command or "true")
        except ValueError as error:
            raise JaxptError(f"{where}.command is {self.command!r}: {error}") from None
        if not words:
            raise JaxptError(f"{where}.command is {self.command!r}: no command; leave it out")
