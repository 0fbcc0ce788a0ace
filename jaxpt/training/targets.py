"""Steps whose batch has no target, no position that a loss is taken at: they are not taken, and printed."""

from jaxpt.training.active_run import ActiveRun

SHOWN = 10  # steps without a target that are printed, all are in events.jsonl


class StepsWithoutTargets:
    """Prints the steps of a process that had no target, the first of them one by one."""

    def __init__(self) -> None:
        """None so far."""
        self._seen = 0

    def report(self, run: ActiveRun, step: int) -> None:
        """Notes that `step` was not taken."""
        run.metrics.event("no targets", step)
        self._seen += 1
        if self._seen > SHOWN:
            return
        more = "; further ones are in events.jsonl only" if self._seen == SHOWN else ""
        run.log(f"step {step}: its batch has no target (all loss weights are 0), so that it changes nothing{more}")
