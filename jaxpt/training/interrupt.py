"""SIGTERM and Ctrl-C as requests: the run saves at the next step's end and exits with its own code."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.cli.stopping import EXIT_PREEMPTED as EXIT_PREEMPTED
from jaxpt.cli.stopping import Requests, write_line
from jaxpt.training.events import Changes, Event, RunView

SAME = "start again with the same --workdir to go on"


def way_on(workdir: Path, go_on: str = SAME) -> str:
    """Returns the newest checkpoint and how to go on from it, as the end of a line; `go_on` says how."""
    with contextlib.suppress(OSError):
        if steps := finished_steps(workdir):
            return f"the newest checkpoint is {steps[-1]}; {go_on}"
    return f"there is no checkpoint yet; {go_on}"


class Interrupt:
    """A context in which SIGTERM and Ctrl-C only ask the run to stop; a second one ends the process at once.

    Of several processes that JAX joined, each hears of a SIGTERM that any of them got: JAX handles that signal, as long
    as nothing else does, and makes them agree on a step. There, Ctrl-C becomes SIGTERM.
    """

    def __init__(self, workdir: Path, go_on: str = SAME):
        """`workdir` is the run's; `go_on` says how to go on, for messages."""
        self._way_on: Callable[[], str] = lambda: way_on(workdir, go_on)
        self.go_on = go_on
        self._requests = Requests(self._first, self._second)
        self.abandoning = self._requests.abandoning

    def __enter__(self) -> "Interrupt":
        self._several = jax.distributed.is_initialized()
        with contextlib.ExitStack() as stack:
            if not self._several:
                stack.enter_context(self._requests)
            elif threading.current_thread() is threading.main_thread() and _is_default(signal.SIGINT):
                stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._forward))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """The signal that asked this process, alone in its run, to stop; "": none did."""
        return self._requests.name

    def is_agreed(self, step: int) -> bool:
        """Whether to stop after `step`; all processes of a run must call it at each step."""
        return multihost_utils.reached_preemption_sync_point(step) if self._several else bool(self.name)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C of one process of several that no other process watches over."""
        signal.signal(signal.SIGINT, self._end)
        self._first("Ctrl-C")
        os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._second("Ctrl-C")
        os._exit(128 + number)

    def _first(self, name: str) -> None:
        write_line(f"{name}: stopping as soon as all is saved; once more ends the run at once, unsaved")

    def _second(self, name: str) -> None:
        write_line(f"{name} again: ended at once; {self._way_on()}")


def _is_default(number: signal.Signals) -> bool:
    """Whether nobody handles a signal; one that is ignored comes to another process, which watches over this one."""
    return signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


class Preemption(Event):
    """Asks the run to stop once SIGTERM or Ctrl-C has come; several processes agree on the step."""

    pauses_clock = False

    def __init__(self, interrupt: Interrupt):
        """`interrupt` is the context that the run is in."""
        self._interrupt = interrupt
        self.name = "SIGTERM"

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`."""
        return self._interrupt.is_agreed(view.step)

    def act(self, view: RunView) -> Changes:
        """Asks."""
        return Changes(stop=self._interrupt.name or self.name)
