"""Saving: which steps are written as checkpoints, when a run waits for them, and which of them stay."""

from collections.abc import Sequence

from jaxpt.checkpoints.checkpoints import Retention
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.config.duration import parse_interval
from jaxpt.training.active_run import ActiveRun
from jaxpt.training.events import Changes, Due, Event, RunView
from jaxpt.training.run_plan import RunPlan
from jaxpt.training.step_records import check_step


class Saving(Event):
    """Saves so often, at stage ends, where an event asked for it, and before each event that is `after_checkpoint`."""

    name = "saving"

    def __init__(self, run: ActiveRun, followers: Sequence[Event]):
        """`followers` are the events that act once the checkpoint of their step is on disk."""
        every = parse_interval(run.plan.config.checkpoint.every, "config.checkpoint.every")
        self.due = Due(every=every, stage_ends=True)
        self._run, self._followers = run, followers

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`."""
        return view.save_requested or self._must_wait(view) or super().is_due(view)

    def act(self, view: RunView) -> Changes:
        """Writes in the background, unless something waits for the checkpoint."""
        run = self._run
        check_step(run, view.step, view.metrics)
        run.check_writer()
        if view.step not in run.checkpoints.steps():
            run.metrics.event("save", view.step)
            passed = [[r.first, r.stop] for r in run.passed if r.first < view.step]
            item: RunItem = {
                "model": view.model.to_dict(),
                **run.plan.to_save(view.step),
                "trained_tokens": run.trained_tokens,
                **(
                    {"passed": passed}
                    if (passed := [[r.first, r.stop] for r in run.passed if r.first < view.step])
                    else {}
                ),
                **run.feed.to_save(view.step),
            }
            run.checkpoints.save(view.step, view.state.to_items(), item)
        if self._must_wait(view):
            run.checkpoints.wait()
        return Changes()

    def _must_wait(self, view: RunView) -> bool:
        return view.stop_requested is not None or any(event.is_due(view) for event in self._followers)


def retention(plan: RunPlan) -> Retention:
    """Returns which checkpoints of `plan` stay."""
    config = plan.config.checkpoint
    kept = Due(every=parse_interval(config.keep_every, "config.checkpoint.keep_every"))
    return Retention(config.keep, frozenset(stage.whole[1] for stage in plan.stages), lambda step: kept.at(plan, step))
