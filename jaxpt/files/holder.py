"""Who holds a lock: the record that a writer leaves in its lock file and renews as its heartbeat."""

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SIZE = 512  # bytes of a record, padded: renewing it needs no space on a full disk


@dataclass(frozen=True)
class Holder:
    """A process that writes into a directory. Times are seconds since 1970 by the clock of its host."""

    host: str
    pid: int
    boot: str  # id of the start of that machine's kernel
    namespace: str  # of process ids: containers of one machine have their own
    born: str  # when the process began, in ticks since boot: distinguishes it from a later one with the same id
    token: str  # of this lock alone
    started: float
    beat: float

    @staticmethod
    def this_process() -> "Holder":
        """Returns a new record of this process."""
        now, pid = time.time(), os.getpid()
        host = socket.gethostname()[:100]
        return Holder(host, pid, _boot(), _namespace(), _born(pid), uuid.uuid4().hex, now, now)

    def now(self) -> "Holder":
        """Returns the record with a heartbeat of this moment."""
        return replace(self, beat=time.time())

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.time() - self.beat

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine, since its last start, and its process id means the same here."""
        return (self.host, self.boot, self.namespace) == (socket.gethostname()[:100], _boot(), _namespace())

    @property
    def is_alive(self) -> bool:
        """Whether it runs on this machine now."""
        return self.is_here and _born(self.pid) == self.born != ""

    def to_bytes(self) -> bytes:
        """Returns the record as `SIZE` bytes of JSON; two records of one lock differ in the digits of `beat` only."""
        facts = {**asdict(self), "started": f"{self.started:.3f}", "beat": f"{self.beat:.3f}"}
        return json.dumps(facts).encode().ljust(SIZE - 1) + b"\n"

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host} (since {since})"


def read_holder(file: Path) -> Holder | None:
    """Returns the record in a lock file, None where it holds none.

    Raises:
        OSError: the file is not there or cannot be read.
    """
    with file.open("rb") as stream:
        return parse_holder(stream.read(4 * SIZE))


def parse_holder(data: bytes) -> Holder | None:
    """Returns the record that `data` holds, None for anything else."""
    try:
        facts = json.loads(data)
        return Holder(**{**facts, "started": float(facts["started"]), "beat": float(facts["beat"])})
    except (ValueError, TypeError, KeyError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process of this machine began; empty where there is none (one that has ended unnoticed counts as none)."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if facts[0] in "ZX" else facts[19]
