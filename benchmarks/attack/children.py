"""Children of the code under attack: started by forking servers, signalled, waited for, their output read."""

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 60.0  # seconds until a child counts as hanging


@dataclass(frozen=True)
class Outcome:
    """How a child ended: exit code (negative: a signal), what it printed, its answer, whether it had to be ended."""

    code: int
    out: str
    err: str
    answer: Any
    hung: bool
    seconds: float

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err

    @property
    def reason(self) -> str:
        """The last line of its errors, cut."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


class Server:
    """One process of the attacked code, which forks one child at a time."""

    def __init__(self, code: Path, folder: Path):
        """Starts the process; children print into files of `folder`."""
        self.folder, self._count = folder, 0
        script = str(Path(__file__).with_name("server.py"))
        env = {
            **os.environ, "PYTHONPATH": str(code), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1",
            "OMP_NUM_THREADS": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        env.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.parent / "compiled"))
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "server.log", "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", script], env=env, stdin=-1, stdout=-1, stderr=log, bufsize=0, cwd=folder
            )
        if self._line(120) != "ready":
            raise SystemExit(f"the code under attack could not be imported; see {folder / 'server.log'}")

    def start(self, calls: Sequence[Sequence[Any]], **faults: Any) -> "Running":
        """Starts a child that does `calls` in order (see `benchmarks.attack.actions`) under `faults`."""
        self._count += 1
        out = self.folder / str(self._count)
        request = {"calls": calls, "faults": faults, "out": str(out), "answer": f"{out}.answer"}
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        return Running(self, int(self._line(10) or 0), out)

    def call(self, *calls: Sequence[Any], limit: float = LIMIT, **faults: Any) -> Outcome:
        """Starts a child and waits for its end."""
        return self.start(calls, **faults).wait(limit)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(60)

    def _line(self, limit: float) -> str | None:
        stream = self._process.stdout
        if not select.select([stream], [], [], limit)[0]:
            return None
        return stream.readline().decode().strip()


class Running:
    """A child at work."""

    def __init__(self, server: Server, pid: int, out: Path):
        """Use `Server.start`."""
        self._server, self.pid, self._out, self._begun = server, pid, out, time.monotonic()
        self._code: str | None = None

    def ended(self, within: float) -> bool:
        """Waits at most that many seconds; returns whether it has ended."""
        self._code = self._code or self._server._line(max(within, 0))
        return self._code is not None

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone, as a terminal's user or a scheduler does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, limit: float = LIMIT) -> Outcome:
        """Waits for its end; after `limit` seconds it is killed and counts as hanging."""
        hung = not self.ended(limit)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # workers that outlive it, too
        while self._code is None:
            self._code = self._server._line(10)
        texts = [Path(f"{self._out}{end}") for end in (".out", ".err", ".answer")]
        out, err, answer = (f.read_text(errors="replace") if f.exists() else "" for f in texts)
        for file in texts:
            file.unlink(missing_ok=True)
        value = json.loads(answer) if answer else None
        return Outcome(int(self._code), out, err, value, hung, time.monotonic() - self._begun)


class Children:
    """A few servers, and a way to spread trials over them."""

    def __init__(self, code: Path, folder: Path, count: int = 2):
        """Starts `count` servers of the checkout `code`."""
        with ThreadPoolExecutor(count) as pool:
            self.servers = list(pool.map(lambda i: Server(code, folder / f"server{i}"), range(count)))

    def call(self, *calls: Sequence[Any], limit: float = LIMIT, **faults: Any) -> Outcome:
        """A child of the first server, waited for."""
        return self.servers[0].call(*calls, limit=limit, **faults)

    def each(self, work: Callable[[Server, Any], Any], items: Iterable[Any]) -> list[Any]:
        """Returns `work(server, item)` of every item in order; as many at once as there are servers."""
        free: queue.SimpleQueue[Server] = queue.SimpleQueue()
        for server in self.servers:
            free.put(server)

        def one(item: Any) -> Any:
            server = free.get()
            try:
                return work(server, item)
            finally:
                free.put(server)

        with ThreadPoolExecutor(len(self.servers)) as pool:
            return list(pool.map(one, items))

    def close(self) -> None:
        """Ends the servers."""
        for server in self.servers:
            server.close()
