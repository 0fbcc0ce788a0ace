"""Starting a process that ends with this one, and that sees some of this machine's devices only."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)
# chips of one TPU process on one host, as x,y,z; those of other counts keep what the machine says
TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}


def end_with(parent: int) -> None:
    """Lets the system end this process when its parent ends, however that comes (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def seeing(devices: Sequence[str]) -> dict[str, str]:
    """Returns the variables by which a process sees only `devices` of this machine, whatever kind they are.

    The names are those that CUDA, ROCm and libtpu number their devices by; none: nothing is set.
    """
    if not devices:
        return {}
    ids = ",".join(devices)
    out = {"CUDA_VISIBLE_DEVICES": ids, "ROCR_VISIBLE_DEVICES": ids, "TPU_VISIBLE_CHIPS": ids}
    if len(devices) in TPU_BOUNDS:
        out |= {"TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOUNDS[len(devices)], "TPU_PROCESS_BOUNDS": "1,1,1"}
    return out


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts a process whose output is appended to `log`; it ends with this process, at once, however that ends.

    It is out of reach of the terminal's Ctrl-C, so that this process can ask it to stop in its own way. Call it from a
    thread that lives as long as the process is to live.
    """
    # this file, as a program, becomes the command: a fork that runs Python of its own may hang beside JAX's threads
    launcher = (sys.executable, "-I", "-S", __file__, str(os.getpid()))
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=folder,
            start_new_session=True,
        )


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
