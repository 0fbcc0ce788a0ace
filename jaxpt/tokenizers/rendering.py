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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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

    def ask(self, request: bytes, seconds: int) -> bytes:
        """Returns the answer, which may take `seconds`; raises `_Ended`."""
        until = time.monotonic() + seconds + 2  # the process ends itself before
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


def ask(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what `template_worker.answer` makes of each request, within its limits of time, output and memory.

    What fails has an `error` as its answer; the first one that exceeds a limit is the last one that is answered.
    """
    try:
        return _ask(requests)
    except _Ended as ended:
        if len(requests) > 1:  # which of them it was is found out
            made: list[dict[str, Any]] = []
            while len(made) < len(requests) and not (made and "error" in made[-1]):
                made += ask([requests[len(made)]])
            return made
        late = f"it takes longer than {SECONDS} s for one conversation"
        return [
            {"error": late if ended.args[0] else "it ended the process that renders it: it needs more than it may have"}
        ]


def _ask(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    global _worker
    data = json.dumps([{**request, "characters": CHARACTERS} for request in requests], default=_plain).encode()
    with _lock:
        while True:
            fresh = _worker is None or _worker.owner != os.getpid()
            if fresh:
                _worker = _Worker()
            assert _worker is not None
            try:
                answers: list[dict[str, Any]] = json.loads(_worker.ask(data, SECONDS * len(requests)))
                return answers
            except _Ended as ended:
                _end()
                if fresh or ended.args[0]:
                    raise  # else somebody ended the process since the last request
            except BaseException:  # Ctrl-C: what is left of the answer would be taken for the next one
                _end()
                raise


def _end() -> None:
    global _worker
    if _worker is not None:
        _worker.end()
        _worker = None


atexit.register(_end)


def _plain(value: Any) -> Any:
    """A value of Parquet or numpy that JSON has not, as the number or the text that a template would write."""
    return value.item() if hasattr(value, "item") else value.tolist() if hasattr(value, "tolist") else str(value)
