"""The process that renders chat templates: started when it is needed, used again, ended where it takes too long."""

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError

SECONDS = 10  # one conversation may take
CHARACTERS = 64 << 20  # it may become
MEMORY = 1 << 30  # bytes of address space that the process may have
BLOCK = 1 << 20


class _Ended(Exception):
    """The process ended, or was ended, without an answer; `args` says whether its time was up."""


class _Worker:
    """One process of `template_worker`."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # a fork of it must not use the pipes
        script = Path(__file__).with_name("template_worker.py")
        command = [sys.executable, "-P", str(script), str(SECONDS), str(MEMORY)]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        # a session of its own: Ctrl-C is for the parent, which closes the pipe
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=none, bufsize=0, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)

    def ask(self, request: bytes) -> bytes:
        """Returns the answer; raises `_Ended`."""
        until = time.monotonic() + SECONDS + 2  # the process ends itself before
        rest = memoryview(struct.pack("<q", len(request)) + request)
        got = bytearray()
        want = 8
        try:
            while len(got) < want:
                left = until - time.monotonic()
                read, write, _ = select.select([self._out], [self._in] if rest else [], [], max(left, 0))
                if left <= 0 or not (read or write):
                    raise _Ended(True)
                if write:
                    rest = rest[os.write(self._in, rest[: 1 << 16]) :]
                if read:
                    block = os.read(self._out, BLOCK)
                    if not block:
                        raise _Ended(self._process.wait() == -14)  # SIGALRM
                    got += block
                if len(got) >= 8:
                    want = 8 + struct.unpack("<q", got[:8])[0]
        except BrokenPipeError:
            raise _Ended(False) from None
        return bytes(got[8:])

    def end(self) -> None:
        """Ends the process."""
        if self.owner == os.getpid():
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self._process.wait()


_lock = threading.Lock()
_worker: _Worker | None = None


def ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `template_worker.answer` makes of a request, within its limits of time, output and memory.

    Raises:
        JaxptError: the template fails, or exceeds a limit; the message does not name it.
    """
    global _worker
    data = json.dumps({**request, "characters": CHARACTERS}, default=_plain).encode()
    with _lock:
        for attempt in (1, 2):
            if _worker is None or _worker.owner != os.getpid():
                _worker, fresh = _Worker(), True
            else:
                fresh = False
            try:
                answer = json.loads(_worker.ask(data))
                break
            except _Ended as ended:
                _end()
                if ended.args[0]:
                    raise JaxptError(f"it takes longer than {SECONDS} s for one conversation") from None
                if fresh or attempt == 2:  # else somebody ended the process since the last request
                    raise JaxptError("it ended the process that renders it, with more than it may have") from None
            except BaseException:  # Ctrl-C: what is left of the answer would be taken for the next one
                _end()
                raise
    if "error" in answer:
        raise JaxptError(answer["error"])
    return answer


def _end() -> None:
    global _worker
    if _worker is not None:
        _worker.end()
        _worker = None


atexit.register(_end)


def _plain(value: Any) -> Any:
    """A value of Parquet or numpy that JSON has not, as the number or the text that a template would write."""
    return value.item() if hasattr(value, "item") else value.tolist() if hasattr(value, "tolist") else str(value)
