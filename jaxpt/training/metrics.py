"""What a run records: metrics.jsonl, cut back on resume, events.jsonl, and the same numbers for TensorBoard."""

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.files.partial import whole_file
from jaxpt.training.tensorboard import Board

_BARE = re.compile(rb"[:\[,] *-?(NaN|Infinity)\b")


class MetricsLog:
    """Appends records to `metrics.jsonl` and `events.jsonl` of a run directory; one host writes.

    A record is one line `{"step": n, "train/loss": …}`; n counts finished steps. After a resume at step r the lines
    with step > r are moved to `metrics.cut.jsonl`, and `replayed` compares the first of them with what is computed.

    Lines are strict JSON: a value that is not finite is null, and `not_finite` of its line says what it is
    (`{"train/loss": "nan"}`); `read` gives it back as a float.
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
        self._removed = workdir / "metrics.cut.jsonl"
        self._events = workdir / "events.jsonl"
        self._write = write
        self._board: Board | None = None
        kept, self._cut = _split(self.path, resumed_at)
        self.kept = {(r["step"], name) for r in kept for name in r}
        if not write:
            return
        if self._cut:
            append(self._removed, *self._cut)
        if self._cut or not self.path.exists() or not _is_strict(self.path):
            _replace(self.path, kept)
        if self._events.exists() and not _is_strict(self._events):
            _replace(self._events, _records(self._events))
        if tensorboard:
            self._board = Board(workdir / "tensorboard", resumed_at)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one record and flushes it."""
        if not self._write:
            return
        append(self.path, {"step": step, **values})
        if self._board is not None:
            self._board.add(step, {k: v for k, v in values.items() if isinstance(v, int | float)})

    def event(self, name: str, step: int, **facts: object) -> None:
        """Appends what happened (start, resume, save, evaluation, …) with the wall-clock time, to events.jsonl."""
        if self._write:
            append(self._events, {"event": name, "step": step, "time": time.time(), **facts})

    def has(self, step: int, prefix: str) -> bool:
        """Whether the records kept at opening hold a value of that step whose name starts with `prefix`."""
        return any(s == step and name.startswith(prefix) for s, name in self.kept)

    def replayed(self, step: int, values: Mapping[str, Any]) -> tuple[float, float] | None:
        """Compares the first replayed record with the one that was cut.

        Returns:
            `(loss now, loss then)` for the first logged step that was logged before too, else None.
        """
        for record in self._cut:
            if record["step"] == step and "train/loss" in record and "train/loss" in values:
                self._cut = []
                return values["train/loss"], record["train/loss"]
        return None

    def close(self) -> None:
        """Flushes and closes."""
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl or events.jsonl; a half-written last line is left out.

    Values that are not finite are floats again, whether marked as `MetricsLog` does or bare words (NaN, Infinity)
    as versions before that wrote them.

    Raises:
        JaxptError: a broken line that is not the last.
    """
    return _records(path)


def _split(path: Path, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    records = _records(path) if path.exists() else []
    return [r for r in records if r["step"] <= step], [r for r in records if r["step"] > step]


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    out = []
    for i, line in enumerate(lines):
        if not line:
            continue
        try:
            out.append(_record(line))
        except (ValueError, TypeError, KeyError):
            if i == len(lines) - 1:  # killed while writing
                break
            raise JaxptError(f"{path}: line {i + 1} is not JSON or not a record; repair or remove it") from None
    return out


def _is_strict(path: Path) -> bool:
    """Whether the file ends with a finished line and holds no bare NaN or Infinity."""
    text = path.read_bytes()
    return text[-1:] in (b"", b"\n") and not _BARE.search(text)


def _line(record: Mapping[str, Any]) -> str:
    odd = {k: repr(float(v)) for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    if odd:
        record = {k: None if k in odd else v for k, v in record.items()} | {"not_finite": odd}
    return json.dumps(record, allow_nan=False) + "\n"


def _record(line: bytes) -> dict[str, Any]:
    """Raises ValueError, TypeError or KeyError where the line is not a record."""
    record = json.loads(line)
    if not isinstance(record["step"], int):
        raise TypeError("a record's step is a number")
    odd = record.pop("not_finite", {})
    return record | {k: float(v) for k, v in odd.items()}


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Appends records, one line of strict JSON each.

    Raises:
        JaxptError: they cannot be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write("".join(map(_line, records)))
    except OSError as error:  # a half-written line is cut when the run starts again
        raise JaxptError(f"{path} cannot be written: {error.strerror}; free space and start again") from error


def _replace(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with whole_file(path, temporary):
        temporary.write_text("".join(map(_line, records)), encoding="utf-8")
