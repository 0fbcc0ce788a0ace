"""Runs in processes of their own: started, waited for, and killed when their test ends."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxpt.training.metrics import read

ROOT = Path(__file__).parents[2]
PATIENCE = 1800  # seconds for what takes a few: the machine may be busy
STARTED = []


def start(module, *args, devices=1):
    """Starts `python -m tests.training.MODULE` with some simulated devices; what is not a path is given as JSON."""
    words = [str(a) if isinstance(a, Path) else json.dumps(a) for a in args]
    return _start([f"tests.training.{module}", *words], devices)


def start_command(*words, devices=1):
    """Starts `jaxpt` with such words, likewise."""
    return _start(["jaxpt", *words], devices)


def _start(words, devices):
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    STARTED.append(
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )
    return STARTED[-1]


def kill_all():
    """Kills what a failed test left waiting."""
    while STARTED:
        STARTED.pop().kill()


def free_address():
    """A free port of this machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def steps_logged(workdir):
    """The newest step in the metrics, 0 before the first."""
    path = Path(workdir) / "metrics.jsonl"
    return max((r["step"] for r in read(path)), default=0) if path.exists() else 0


def wait_for(workdir, condition, *processes):
    """Waits for processes that stop by themselves once they have come so far; only a broken run uses up the time."""
    deadline = time.monotonic() + PATIENCE
    while not condition(Path(workdir)):
        ended = [p for p in processes if p.poll() is not None]
        if ended:
            pytest.fail("the run ended before it was stopped:\n" + ended[0].stdout.read())
        if time.monotonic() > deadline:
            kill_all()
            pytest.fail("the run never came that far:\n" + processes[0].communicate()[0])
        time.sleep(0.1)


def finish(processes):
    """Waits for the end of processes that must all succeed; returns what they printed."""
    outputs = [p.communicate(timeout=PATIENCE)[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), outputs
    return outputs
