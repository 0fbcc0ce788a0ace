"""Norms of parameters, gradients and updates by axis group, as the step computes them now and then."""

from jaxpt.config.duration import Duration
from jaxpt.models.specs import param_specs
from jaxpt.training.active_run import ActiveRun
from jaxpt.training.events import Changes, Due, Event, RunView
from jaxpt.training.safeguards import named_norms


class Watching(Event):
    """Logs `watch/params/GROUP`, `watch/grads/GROUP` and `watch/updates/GROUP` every `metrics.watch` steps."""

    name = "watch"
    pauses_clock = False

    def __init__(self, run: ActiveRun):
        """`run` is the one whose steps are watched."""
        every = run.plan.config.metrics.watch
        self.due = Due(every=Duration(every, "steps") if every else None)
        self._run = run

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`; a step that was not taken has no norms."""
        return "watch" in self._run.values and super().is_due(view)

    def act(self, view: RunView) -> Changes:
        """Logs the norms of the last step."""
        norms = self._run.values["watch"]
        assert not isinstance(norms, int)
        return Changes(named_norms(norms, param_specs(view.plan.model)))
