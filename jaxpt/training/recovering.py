"""Rolling back: seen in what the guard says of each step, noted in the run directory, done by opening the run again."""

import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.errors import JaxptError
from jaxpt.sharding import on_first_process
from jaxpt.training import rollbacks
from jaxpt.training.active_run import ActiveRun
from jaxpt.training.events import Changes, Event, RunView
from jaxpt.training.recoveries.rollback import Rollback
from jaxpt.training.rollbacks import PassedOver

FLAGS = ("finite", "spiked_at")
SECONDS = 60.0  # that a command may take


class RollBack(Exception):
    """A rollback is noted; the run must be opened again."""


class Recovering(Event):
    """Looks at each step one step later, when the devices have finished it, or at once where they are waited for."""

    name = "recovery"
    pauses_clock = False

    def __init__(self, run: ActiveRun, waiting: Sequence[Event]):
        """`waiting` are the events that act on finished steps only: what they would write must be looked at before."""
        self._run, self._waiting = run, waiting
        self._unseen: list[tuple[int, Mapping[str, object]]] = []

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`: after each step."""
        return self._run.plan.config.recovery.goes_back and view.step > 0

    def act(self, view: RunView) -> Changes:
        """Looks.

        Raises:
            RollBack: there was trouble; the steps to be passed over are on disk.
            JaxptError: there was trouble once more than may be.
        """
        values = self._run.values
        if "spiked_at" in values:
            self._unseen.append((view.step, {name: values[name] for name in FLAGS}))
        ready = len(self._unseen) - (not any(event.is_due(view) for event in self._waiting))
        seen, self._unseen = self._unseen[: max(ready, 0)], self._unseen[max(ready, 0) :]
        for step, flags in seen:
            self._look(step - 1, jax.device_get(flags))
        return Changes()

    def _look(self, step: int, flags: Mapping[str, np.ndarray]) -> None:
        """Looks at the step with number `step`, from 0."""
        config = self._run.plan.config
        policy = config.recovery
        assert isinstance(policy, Rollback)
        if not flags["finite"] and not config.guard.skips_not_finite:
            self._go_back(policy, step, step, f"step {step + 1} is not finite")
        first, last = int(flags["spiked_at"][policy.spikes - 1]), int(flags["spiked_at"][0])
        if first >= 0 and last == step and first > step - policy.within:
            spikes = f"{policy.spikes} spikes" if policy.spikes > 1 else "a spike"
            self._go_back(policy, first, last, f"{spikes} in the steps {first + 1} to {last + 1}")

    def _go_back(self, policy: Rollback, first: int, last: int, reason: str) -> None:
        run = self._run
        if len(run.passed) >= policy.most:
            raise JaxptError(
                f"{reason}, and {run.workdir / rollbacks.NAME} holds {len(run.passed)} rollbacks already: look into "
                f"it, or allow more with --config.recovery.most"
            )
        first, stop = max(0, first - policy.before), min(last + 1 + policy.after, run.plan.steps)
        run.checkpoints.wait()
        steps = finished_steps(run.workdir)
        checkpoint = max((s for s in steps if s <= first), default=0)
        noted = PassedOver(first, stop, checkpoint, run.step, reason, time.time())
        run.check_writer()
        on_first_process(lambda: rollbacks.append(run.workdir, noted))
        run.metrics.event("rollback", run.step, first=first, stop=stop, checkpoint=checkpoint, reason=reason)
        back = f"from checkpoint {checkpoint}" if checkpoint else "from the beginning"
        run.log(f"{reason}: going on {back}, the steps {first + 1} to {stop} are passed over")
        if policy.command is not None and jax.process_index() == 0:
            run.log(_called([*shlex.split(policy.command), str(run.workdir), str(first), str(stop), str(checkpoint)]))
        raise RollBack


def _called(words: Sequence[str]) -> str:
    """Calls the user's command; returns a line about it. Whatever becomes of it, the run goes on."""
    try:
        done = subprocess.run(words, timeout=SECONDS, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"config.recovery.command: {error}"
    said = " ".join((done.stdout + done.stderr).split())[:200]
    return f"config.recovery.command ended with {done.returncode}{f': {said}' if said else ''}"
