"""A process of several runs in a child, so that something of ours is left to say which other process was lost.

Where a process of a run is lost, JAX hangs or ends the others in C++, which nothing can catch. The child works; this
process waits, passes signals on, and prints the last line.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from jaxpt.cli.child import end_with
from jaxpt.cli.dispatch import mistakes_in_a_line
from jaxpt.cli.stopping import NAMES, write_line
from jaxpt.sharding.watch import MissingProcess, Watch, period

PASSED_ON = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LOST = os.EX_TEMPFAIL  # 75: start again
LAST = 300.0  # seconds that a child may take to end after its work, as JAX lets the processes wait for each other
PROBE = 5.0  # seconds within which the coordinator takes a connection, if it is there

Work = Callable[[Watch], int]


def supervised(work: Work, limit: float, program: str, way_on: Callable[[], str]) -> int:
    """Runs `work` in a child process, which gets the same terminal, files and output; returns the exit code.

    Args:
        work: returns an exit code; begins the watch that it gets once JAX's processes are joined.
        limit: seconds without a sign of life until a process counts as lost.
        program: as lines begin.
        way_on: says the newest checkpoint and how to go on.

    Returns:
        That of `work`; 75 where another process was lost, or this one killed or stopped; 1 where another one ended with
        an error; 128 + N where signal N ended the child otherwise.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, limit, program, writer, parent)
    os.close(writer)
    return _Supervisor(pid, reader, limit, program, way_on).run()


def _child(work: Work, limit: float, program: str, writer: int, parent: int) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the parent passes it on
        end_with(parent)

        def report(**facts: Any) -> None:
            with contextlib.suppress(OSError):
                os.write(writer, json.dumps(facts).encode() + b"\n")  # shorter than a pipe writes at once

        watch = Watch(limit, report)
        code = _worked(work, watch, program, limit)
        sys.stdout.flush()
        sys.stderr.flush()
        watch.end(code)
        jax.distributed.shutdown()  # waits for the others
    finally:
        os._exit(code)


def _worked(work: Work, watch: Watch, program: str, limit: float) -> int:
    try:
        return mistakes_in_a_line(program, lambda: work(watch))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        if _may_be_a_loss(error):
            write_line(f"{program}: a computation over all processes failed; looking for a process that is missing …")
            if watch.is_lost(limit + 3 * period(limit)):
                time.sleep(LAST)  # the parent ends this process
        traceback.print_exc()
        return 1


def _may_be_a_loss(error: BaseException) -> bool:
    """Whether a computation failed, perhaps as it lacked a process; not for want of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED")


class _Supervisor:
    """What the parent knows of its child, and of the other processes by it."""

    def __init__(self, pid: int, reader: int, limit: float, program: str, way_on: Callable[[], str]):
        self._pid, self._reader, self._limit, self._program, self._way_on = pid, reader, limit, program, way_on
        self._buffer = b""
        self._facts: dict[str, Any] = {}  # the newest of each kind that the child reported
        self._loss: tuple[MissingProcess, float] | None = None  # and when to end the child for it
        self._heard = self._looked = time.monotonic()
        self._stopped: float | None = None  # since when the child is
        self._signals = 0
        self._status: int | None = None

    def run(self) -> int:
        """Waits for the child's end, or ends it; returns the exit code."""
        with self._handling():
            while self._status is None:
                self._read()
                self._reap()
                reason = self._status is None and self._hopeless()
                if reason:
                    self._end_child()
                    return self._say(reason, self._code_of_loss())
        self._read(0.0)
        os.close(self._reader)
        return self._of_ended_child()

    @contextlib.contextmanager
    def _handling(self) -> Iterator[None]:
        wanted = [n for n in (*NAMES, *PASSED_ON) if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if number not in NAMES:
            self._kill(number)
            return
        name = NAMES[signal.Signals(number)]
        self._signals += 1
        if self._signals == 1:
            write_line(
                f"{self._program}: {name}: all processes save and stop within a few steps; once more ends this one at "
                f"once, unsaved"
            )
            self._kill(signal.SIGTERM)
        else:
            self._end_child()
            write_line(f"{self._program}: {name} again: ended at once; {self._way_on()}")
            os._exit(128 + number)

    def _kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _end_child(self) -> None:
        self._kill(signal.SIGKILL)
        if self._status is None:
            with contextlib.suppress(ChildProcessError):
                self._status = os.waitpid(self._pid, 0)[1]

    def _read(self, wait: float = 0.2) -> None:
        """Takes in what the child reported."""
        while select.select([self._reader], [], [], wait)[0]:
            data = os.read(self._reader, 65536)
            if not data:
                time.sleep(wait / 10)  # the child ends
                return
            wait = 0.0
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._heard = time.monotonic()
                self._take(json.loads(line))

    def _take(self, facts: dict[str, Any]) -> None:
        if "asking" in facts:
            self._facts["asked" if facts["asking"] else "answered"] = self._heard, time.time()
        if "loss" in facts:
            linger = 2 * period(self._limit) + 1 if self._facts["process"] == 0 else 0.0  # until all have read it
            self._loss = MissingProcess(**facts["loss"]), self._heard + linger
        self._facts |= {key: value for key, value in facts.items() if key not in ("asking", "loss")}

    def _reap(self) -> None:
        pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if not pid:
            return
        if os.WIFSTOPPED(status):
            self._stopped = time.monotonic()
        elif os.WIFCONTINUED(status):
            self._stopped, self._heard = None, time.monotonic()
        else:
            self._status = status

    def _hopeless(self) -> str | None:
        """Why not to wait any longer, as the begin of a line."""
        now = time.monotonic()
        if now - self._looked > self._limit / 2:  # this process itself was stopped
            self._heard = now
            self._stopped = self._stopped and now
        self._looked = now
        if self._loss:
            loss, end = self._loss
            return self._missing(loss) if now > end else None
        if self._stopped:
            since = now - self._stopped
            return f"{self._me()}, this one, is stopped since {_clock(since)}" if since > self._limit else None
        if "process" not in self._facts:
            return None  # JAX has a limit of its own while the processes join
        silent = now - self._heard
        if "code" in self._facts:
            return None if silent < LAST + 2 * self._limit else f"{self._me()}, this one, does not end"
        if silent < self._limit:
            return None
        if self._is_waiting() and self._facts["process"]:
            return self._missing(MissingProcess(0, time.time() - silent))
        return f"{self._me()}, this one, gives no sign of life since {_clock(silent)}"

    def _is_waiting(self) -> bool:
        """Whether the child has asked process 0 and got no answer."""
        asked, answered = self._facts.get("asked", (0, 0)), self._facts.get("answered", (0, 0))
        return bool(asked[0] > answered[0])

    def _of_ended_child(self) -> int:
        """The exit code after the child's end, and the line where it did not say why it ended."""
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        if "code" in self._facts:
            return int(self._facts["code"])
        if code >= 0:
            return code
        number, name = -code, signal.Signals(-code).name
        if self._loss:
            return self._say(self._missing(self._loss[0]), self._code_of_loss())
        if number == signal.SIGTERM and self._signals:
            return self._say("stopped before the first step", LOST)
        if number == signal.SIGKILL:
            return self._say(
                f"{self._me()}, this one, was killed at {_clock(0)} (where memory runs out, the system does)", LOST
            )
        if self._facts.get("process") and self._coordinator_is_gone():
            last = time.monotonic() - self._facts.get("answered", (self._heard, 0))[0]
            return self._say(self._missing(MissingProcess(0, time.time() - last)), LOST)
        return self._say(f"{self._me()}, this one, was ended by {name}", 128 + number)

    def _coordinator_is_gone(self) -> bool:
        host, _, port = str(self._facts["coordinator"]).rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PROBE).close()
        except OSError:
            return True
        return False

    def _code_of_loss(self) -> int:
        return 1 if self._loss and self._loss[0].failed else LOST

    def _missing(self, loss: MissingProcess) -> str:
        which = f"process {loss.process} of {self._facts['processes']}"
        if loss.process == 0:
            which += f" (the coordinator, {self._facts['coordinator']})"
        since = time.strftime("%H:%M:%S", time.localtime(loss.since))
        if loss.failed:
            return f"{which} ended at {since} with an error, which stands in its own output"
        return f"{which} is missing since {since}"

    def _me(self) -> str:
        known = "process" in self._facts
        return f"process {self._facts['process']} of {self._facts['processes']}" if known else "a process of several"

    def _say(self, reason: str, code: int) -> int:
        sys.stdout.flush()
        write_line(f"{self._program}: {reason}; {self._way_on()}")
        return code


def _clock(seconds_ago: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time.time() - seconds_ago))
