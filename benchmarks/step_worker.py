"""A train step in a process of its own, taken when asked, so that steps of several programs can be interleaved."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Follows a program that defines `take()`, which returns the step's loss, and `facts`. In one text, as it also runs in
# the folder of an old checkout.
LOOP = """
import json, resource, sys, time

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

print(json.dumps(facts), flush=True)
for _ in sys.stdin:
    begun, cpu_begun = time.perf_counter(), cpu()
    loss = take()
    spent = {"seconds": time.perf_counter() - begun, "cpu": cpu() - cpu_begun}
    print(json.dumps({**spent, "loss": loss}), flush=True)
"""


class Worker:
    """The step that `program` defines, in the folder of a checkout.

    Attributes:
        facts: what the program says of itself once it is compiled.
        seconds: wall time of each step.
        cpu: CPU seconds of each step, of all threads.
        losses: the loss of each step.
    """

    def __init__(self, program: str, checkout: Path, *arguments: str):
        self._process = subprocess.Popen(
            [sys.executable, "-c", program + LOOP, *arguments],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.facts: dict[str, float] = self._read()
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.losses: list[float] = []

    def step(self) -> None:
        """Takes a step and notes its time and loss."""
        print(file=self._process.stdin, flush=True)
        answer = self._read()
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])
        self.losses.append(answer["loss"])

    def close(self) -> None:
        """Lets the process end."""
        self._process.communicate()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the process ended with code {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer
