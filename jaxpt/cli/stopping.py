"""SIGTERM and Ctrl-C as requests that are counted once each, also while the main thread computes or a callback runs."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: start again in the same workdir
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
PATIENCE = 2.0  # seconds for the last line: what it says is read from a file system that may hang
AGAIN = 0.05  # seconds until a Ctrl-C that a callback swallowed is raised once more


class Stopped(KeyboardInterrupt):
    """The first signal, raised where stopping at once loses nothing."""


def write_line(line: str) -> None:
    """Writes a line to standard error at once, also from a signal's handler, where print fails."""
    with contextlib.suppress(OSError):  # a terminal that is gone
        os.write(2, (("\n" if os.isatty(2) else "") + line + "\n").encode(errors="replace"))


class Requests:
    """A context in which the first SIGTERM or Ctrl-C is a request, and the second ends the process at once.

    Python runs handlers in the main thread only between two of its own instructions: not while a step is compiled. So
    a thread is woken by each signal as well, and whichever of the two hears of it first counts it. Outside the main
    thread, which alone can have handlers, the context changes nothing.
    """

    def __init__(self, first: Callable[[str], None], second: Callable[[str], None]):
        """`first` and `second` say a line; they get the signal's name and run in either thread."""
        self.name = ""  # of the first signal; "": none has come
        self._actions = first, second
        self._heard = {"handler": 0, "thread": 0}
        self._lock = threading.RLock()  # a handler may interrupt another one
        self._raises = False

    def __enter__(self) -> "Requests":
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            wanted = [n for n in NAMES if signal.getsignal(n) != signal.SIG_IGN]  # as a shell does in the background
            self._before = {number: signal.signal(number, self._on_signal) for number in wanted}
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, daemon=True, name="signals").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write)  # ends the thread

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """What is done inside may be broken off by the first signal.

        Raises:
            Stopped: a signal came, inside or before.
        """
        if self.name:
            raise Stopped(self.name)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _listen(self) -> None:
        with open(self._read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                if numbers[0] in self._before:
                    self._count("thread", numbers[0])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count("handler", number)
        if self._raises:
            self._raises = False
            raise Stopped(self.name)

    def _count(self, by: str, number: int) -> None:
        with self._lock:
            before = max(self._heard.values())
            self._heard[by] += 1
            if max(self._heard.values()) == before:
                return  # the other one has counted it
            name = NAMES[signal.Signals(number)]
            if before == 0:
                self.name = name
                self._actions[0](name)
                return
            last = threading.Timer(PATIENCE, os._exit, [128 + number])
            last.daemon = True
            last.start()
            self._actions[1](name)
            os._exit(128 + number)


@contextlib.contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Raises a Ctrl-C again that came inside a library's callback, where Python prints a traceback and goes on."""
    usual = sys.unraisablehook

    def hook(lost: Any) -> None:
        if isinstance(lost.exc_value, Stopped):
            return  # whoever raised it knows of it
        if isinstance(lost.exc_value, KeyboardInterrupt) or lost.exc_type is KeyboardInterrupt:
            again = threading.Timer(AGAIN, os.kill, [os.getpid(), signal.SIGINT])
            again.daemon = True
            again.start()
            return
        usual(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual
