"""Who runs the processes of a sweep: this machine, some at a time on devices of their own, or a Ray cluster."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxpt.cli.child import seeing, start
from jaxpt.cli.ray_cluster import connect
from jaxpt.errors import JaxptError

PASSED_ON = ("JAX_", "XLA_", "JAXPT_", "PYTHONPATH", "LD_LIBRARY_PATH")  # how variables begin that workers need too
POLL = 0.1  # seconds
Ended = tuple[str, int]  # name of a task and its exit code


@dataclass(frozen=True)
class Task:
    """A command to run; its output is appended to `log`."""

    name: str
    command: tuple[str, ...]
    log: Path


class Runner(Protocol):
    """Runs tasks; one that ends badly leaves the others alone."""

    def run(self, tasks: Sequence[Task], stopping: Callable[[], bool]) -> Iterator[Ended]:
        """Yields each task that was begun as it ends; once `stopping`, all are asked to stop and no other begins."""
        ...


@dataclass(frozen=True)
class LocalRunner:
    """This machine: as many tasks at a time as there are groups of devices, each of which sees its own group only."""

    groups: tuple[tuple[str, ...], ...] = ((),)

    def run(self, tasks: Sequence[Task], stopping: Callable[[], bool]) -> Iterator[Ended]:
        """See `Runner`. Where this process ends before them, the system ends them."""
        waiting, free = list(tasks), list(self.groups)
        running: dict[str, tuple[subprocess.Popen[bytes], tuple[str, ...]]] = {}
        asked = False
        try:
            while running or (waiting and not stopping()):
                while waiting and free and not stopping():
                    task, group = waiting.pop(0), free.pop(0)
                    running[task.name] = start(task.command, task.log, seeing(group)), group
                if stopping() and not asked:
                    asked = True
                    for process, _ in running.values():
                        process.send_signal(signal.SIGTERM)
                ended = [(name, p.returncode, g) for name, (p, g) in running.items() if p.poll() is not None]
                for name, code, group in ended:
                    del running[name]
                    free.append(group)
                    yield name, code
                if not ended:
                    time.sleep(POLL)
        finally:
            for process, _ in running.values():
                process.kill()
                process.wait()


@dataclass(frozen=True)
class RayRunner:
    """A Ray cluster: each task on a node that has the `resources` ("CPU", "GPU", "TPU", or of one's own) for it.

    The nodes see the same files under the same paths, and have the same Python.
    """

    address: str | None
    resources: Mapping[str, float]

    def run(self, tasks: Sequence[Task], stopping: Callable[[], bool]) -> Iterator[Ended]:
        """See `Runner`. A node that is lost is a task that ended badly."""
        passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        ray = connect(self.address, passed, "pip install 'jaxpt[ray]', or leave --ray out")
        self._check(ray)
        own = {k: v for k, v in self.resources.items() if k not in ("CPU", "GPU")}
        of_node = {"num_cpus": self.resources.get("CPU", 1), "num_gpus": self.resources.get("GPU", 0)}
        remote = ray.remote(max_retries=0, resources=own, **of_node)(run_on_node)
        folder = os.getcwd()
        names = {remote.remote(t.command, str(t.log.absolute()), folder): t.name for t in tasks}
        asked = False
        while names:
            if stopping() and not asked:
                asked = True
                for reference in names:
                    ray.cancel(reference)  # a KeyboardInterrupt there, which asks the task to stop
            ready, _ = ray.wait(list(names), timeout=0.5)
            for reference in ready:
                yield names.pop(reference), self._code(ray, reference)

    def _check(self, ray: object) -> None:
        """Raises a JaxptError where no node could ever run a task, which would wait for good."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[attr-defined]
        wanted = {"CPU": 1.0, **self.resources}
        if any(all(node.get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
            return
        asked = ", ".join(f"{k}={v:g}" for k, v in wanted.items())
        most = ", ".join(f"{k}={max(n.get(k, 0) for n in nodes):g}" for k in wanted)
        raise JaxptError(f"--resources={asked}: no node of the Ray cluster has that; the most of each is {most}")

    def _code(self, ray: object, reference: object) -> int:
        try:
            return int(ray.get(reference))  # type: ignore[attr-defined]
        except Exception:  # of Ray's: the node or its worker is gone, or the task was cancelled before it began
            return 1


def run_on_node(command: Sequence[str], log: str, folder: str) -> int:
    """Runs a command on a node of a Ray cluster, in `folder`; returns its exit code.

    A KeyboardInterrupt is passed on as SIGTERM. Where the worker ends before the command, the system ends that.
    """
    file = Path(log)
    if not file.parent.is_dir():
        raise JaxptError(f"{file.parent} is not there on {os.uname().nodename}: the nodes must see the same files")
    process = start(command, file, {}, Path(folder))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
