"""Stopping on the way, at a step that was named before: the run is saved there and goes on later."""

from jaxpt.errors import JaxptError
from jaxpt.training.events import Changes, Event, RunView


class Until(Event):
    """Asks the run to stop once `step` steps of it are finished, where that is not its end."""

    name = "until_step"
    pauses_clock = False

    def __init__(self, step: int):
        """`step` counts finished steps.

        Raises:
            JaxptError: it is below 1.
        """
        if step < 1:
            raise JaxptError(f"--until_step={step}: give a step from 1 on")
        self.step = step

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`."""
        return self.step <= view.step < view.plan.steps

    def act(self, view: RunView) -> Changes:
        """Asks."""
        return Changes(stop=f"--until_step={self.step}")
