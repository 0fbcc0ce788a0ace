"""What a run tells: metrics.jsonl, cut back on resume, events.jsonl, and the same numbers for TensorBoard."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError


class Metrics:
    """Appends records to `metrics.jsonl` and `events.jsonl` of a run directory; one host writes.

    A record is one line `{"step": n, "train/loss": …}`; n counts finished steps. After a resume at step r the lines
    with step > r are cut, and `replayed` compares the first of them with what is computed anew.
    """

    def __init__(self, workdir: Path, resumed_at: int = 0, *, tensorboard: bool = True, write: bool = True):
        """Opens the files and cuts them back to `resumed_at`.

        Args:
            workdir: the run directory.
            resumed_at: finished steps of the restored checkpoint, 0 for a new run.
            tensorboard: also write event files under `workdir/tensorboard`.
            write: False on all hosts but one.
        """
        self.path = workdir / "metrics.jsonl"
        self._events = workdir / "events.jsonl"
        self._write = write
        self._board: Any = None
        kept, self._cut = _split(self.path, resumed_at)
        self.kept = {(r["step"], name) for r in kept for name in r}
        if not write:
            return
        if self._cut or not self.path.exists() or not _whole(self.path):
            _replace(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        if self._events.exists() and not _whole(self._events):
            _replace(self._events, "".join(json.dumps(r) + "\n" for r in _records(self._events)))
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_at + 1 if resumed_at else None)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one record and flushes it."""
        if not self._write:
            return
        _append(self.path, {"step": step, **values})
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def event(self, name: str, step: int, **facts: Any) -> None:
        """Appends what happened (start, resume, save, evaluation, …) with the wall-clock time, to events.jsonl."""
        if self._write:
            _append(self._events, {"event": name, "step": step, "time": time.time(), **facts})

    def has(self, step: int, prefix: str) -> bool:
        """Whether the records kept at opening hold a value of that step whose name starts with `prefix`."""
        return any(s == step and name.startswith(prefix) for s, name in self.kept)

    def replayed(self, step: int, values: Mapping[str, Any]) -> tuple[float, float] | None:
        """Compares the first replayed record with the one that was cut.

        Returns:
            `(loss now, loss then)` for the first logged step that was logged before too, else None.
        """
        for record in self._cut:
            if record["step"] == step and "train/loss" in record:
                self._cut = []
                return values["train/loss"], record["train/loss"]
        return None

    def close(self) -> None:
        """Flushes and closes."""
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a half-written last line is left out.

    Raises:
        JaxptError: a broken line that is not the last.
    """
    return _records(path)


def _split(path: Path, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    records = _records(path) if path.exists() else []
    return [r for r in records if r["step"] <= step], [r for r in records if r["step"] > step]


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    out = []
    for i, line in enumerate(lines):
        if not line:
            continue
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            if i == len(lines) - 1:  # killed while writing
                break
            raise JaxptError(f"{path}: line {i + 1} is not JSON; repair or remove it") from None
    return out


def _whole(path: Path) -> bool:
    """Whether the file ends with a finished line."""
    size = path.stat().st_size
    if not size:
        return True
    with open(path, "rb") as f:
        f.seek(size - 1)
        return f.read(1) == b"\n"


def _append(path: Path, record: Mapping[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")
    except OSError as error:  # a half-written line is cut when the run starts again
        raise JaxptError(f"{path} cannot be written: {error.strerror}; free space and start again") from error


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
