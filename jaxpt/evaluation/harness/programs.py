"""Programs that a model wrote, run in a limited process each: whether their tests pass. This is no sandbox."""

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

RUNNER = Path(__file__).parent / "program_runner.py"
MOST = 4096  # bytes of a verdict that are read


class ProgramLimits(NamedTuple):
    """What a program may use: seconds (of CPU, and on the clock), bytes of memory, bytes of a file that it writes."""

    seconds: float = 10.0
    memory: int = 1 << 30
    file_size: int = 1 << 20

    def as_resources(self) -> dict[str, int]:
        """Returns them under the names of `resource`, with no core file, few open files and no further process."""
        return {
            "CPU": int(self.seconds) + 1,
            "AS": self.memory,
            "DATA": self.memory,
            "FSIZE": self.file_size,
            "CORE": 0,
            "NOFILE": 64,
            "NPROC": 0,
        }


def run_program(program: str, tests: str, limits: ProgramLimits = ProgramLimits()) -> str | None:  # noqa: B008
    """Returns why a program failed its tests, in one line; None where it passed.

    The program runs in a process group of its own, isolated (`python -I`), in an empty folder that is removed, with an
    empty environment and without standard input and output. It has passed only if the process says so with a token
    that is made for it, after the last test: ending early, printing or replacing what is tested does not. Whatever it
    said, the whole group is killed.

    Args:
        program: Python source.
        tests: Python source that is executed after it, with its names.
        limits: see `ProgramLimits`. A limit on processes does not hold for root.
    """
    token, (out, into) = secrets.token_hex(16), os.pipe()
    asked = {
        "program": program,
        "tests": tests,
        "token": token,
        "verdict": into,
        "limits": limits.as_resources(),
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(asked).encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(RUNNER)],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                pass_fds=(into,),
                start_new_session=True,
            )
        finally:
            os.close(into)
        try:
            said = _line(out, limits.seconds)
        finally:  # it is not waited for before, so that its number still names this group
            os.close(out)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the group has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if said is None:
        return f"longer than {limits.seconds:g} s"
    try:
        verdict = json.loads(said)
    except ValueError:
        verdict = None
    if not isinstance(verdict, dict) or verdict.get("token") != token:
        return "the process ended before its tests had"
    why = verdict.get("why")
    return None if why is None else str(why)


def _line(pipe: int, seconds: float) -> bytes | None:
    """The first line out of a pipe, or what there is where all writers have closed it; None: it takes too long."""
    said, end = b"", time.monotonic() + seconds
    while b"\n" not in said and len(said) < MOST:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return None
        part = os.read(pipe, MOST)
        if not part:
            return said
        said += part
    return said
