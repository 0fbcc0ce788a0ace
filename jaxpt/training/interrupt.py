"""SIGTERM as a request: the run saves at the next step's end and exits with its own code."""

import signal
import threading
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxpt.training.events import Changes, Due, Event, RunView

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: start again in the same workdir


class Interrupt:
    """A context in which SIGTERM only sets `requested`; a second one ends the process as usual.

    Outside the main thread, which alone can handle signals, it changes nothing.
    """

    def __init__(self) -> None:
        """Nothing is requested yet."""
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def agreed(self) -> bool:
        """Whether any host was asked to stop; all hosts must call it at the same step."""
        if jax.process_count() == 1:
            return self.requested
        return bool(multihost_utils.process_allgather(np.array(self.requested)).any())


class Preemption(Event):
    """Asks the run to stop once SIGTERM has come; of several hosts, at a step at which all of them log."""

    name = "SIGTERM"
    pauses_clock = False

    def __init__(self, interrupt: Interrupt, agreeing: Due):
        """`agreeing` is when several hosts compare whether any was asked to stop."""
        self._interrupt, self._agreeing = interrupt, agreeing

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`."""
        compared = jax.process_count() == 1 or self._agreeing.at(view.plan, view.step)
        return compared and self._interrupt.agreed()

    def act(self, view: RunView) -> Changes:
        """Asks."""
        return Changes(stop=self.name)
