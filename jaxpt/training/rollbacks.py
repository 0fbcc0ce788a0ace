"""Steps that a run passes over after rollbacks: an append-only file beside the checkpoints, synced before it is obeyed.

A step that is passed over consumes its rows and changes nothing; the schedule goes on. Which steps those are is decided
by the file alone, so that a run that is killed at any moment of a rollback goes on with it when it is started again: a
checkpoint after the first of such steps is used only where it says itself that they were passed over.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxpt.checkpoints.checkpoints import read_run
from jaxpt.errors import JaxptError
from jaxpt.files.partial import writes

NAME = "rollbacks.jsonl"


@dataclass(frozen=True)
class PassedOver:
    """Global steps [first, stop) that are not trained; `at` is the step at which that was decided, for `reason`.

    `checkpoint` is the step that the run went back to, 0 where it began again.
    """

    first: int
    stop: int
    checkpoint: int
    at: int
    reason: str
    time: float = 0.0

    def __contains__(self, step: int) -> bool:
        return self.first <= step < self.stop


def read(workdir: Path) -> tuple[PassedOver, ...]:
    """Returns the rollbacks of a run; a line that a kill has cut short was never obeyed and counts for nothing.

    Raises:
        JaxptError: a broken line that is not the last.
    """
    path = workdir / NAME
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1].splitlines()
    out = []
    for i, line in enumerate(whole):
        try:
            out.append(PassedOver(**json.loads(line)))
        except (ValueError, TypeError):
            raise JaxptError(f"{path}: line {i + 1} is no record of a rollback; repair or remove it") from None
    return tuple(out)


def append(workdir: Path, rollback: PassedOver) -> None:
    """Adds a line and returns once it is on the disk.

    Raises:
        JaxptError: it cannot be written.
    """
    path = workdir / NAME
    with writes(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.ftruncate(descriptor, text.rfind(b"\n") + 1)  # what a kill has cut short
            os.lseek(descriptor, 0, os.SEEK_END)
            line = (json.dumps(asdict(rollback)) + "\n").encode()
            while line:
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        folder = os.open(workdir, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name
        finally:
            os.close(folder)


def stale(workdir: Path, steps: Iterable[int], rollbacks: Sequence[PassedOver]) -> list[int]:
    """Returns those of the checkpoints `steps` that were trained on steps which are to be passed over.

    One whose `run` item cannot be read is left to whoever restores it.
    """
    out = []
    for step in steps if rollbacks else ():
        try:
            passed = read_run(workdir, step).get("passed", [])
        except (OSError, JaxptError):
            continue
        if any(r.first < step and [r.first, r.stop] not in passed for r in rollbacks):
            out.append(step)
    return out


def ranges(rollbacks: Iterable[PassedOver], step: int) -> list[tuple[int, int]]:
    """Returns the steps before `step` that were passed over, as (first, stop) in order and apart."""
    out: list[tuple[int, int]] = []
    for r in sorted(rollbacks, key=lambda r: r.first):
        first, stop = r.first, min(r.stop, step)
        if out and first <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], stop)
        elif first < stop:
            out.append((first, stop))
    return out
