"""What a process that follows a run writes into it: `scores/ENTRY/scores.jsonl`, a record for each checkpoint."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpt.checkpoints import marks
from jaxpt.files.partial import writes
from jaxpt.training.metrics import append, read

NAME = "scores.jsonl"  # step, tokens, of_stage, digest, asked, time (when the checkpoint was opened) and the scores
FACTS = ("of_stage", "digest", "asked", "time")  # what a record holds besides what a record of the metrics does


def read_entry(workdir: Path, entry: str) -> list[dict[str, Any]]:
    """Returns the records of an entry that are of the run as it is: see `current`; the last one of each step.

    Raises:
        JaxptError: a broken line that is not the last.
    """
    file, events = marks.folder(workdir, entry) / NAME, workdir / "events.jsonl"
    records = current(read(file) if file.is_file() else [], read(events) if events.is_file() else [])
    return sorted({(r["step"], r["asked"]): r for r in records}.values(), key=lambda r: r["step"])


def current(records: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the records without those of checkpoints that the run has gone back behind since they were opened."""
    starts = [e for e in events if e["event"] in ("start", "resume", "branch")]
    return [
        dict(r) for r in records if not any(e["step"] < r["step"] and e.get("time", 0.0) > r["time"] for e in starts)
    ]


def add(workdir: Path, entry: str, record: Mapping[str, Any]) -> None:
    """Appends a record; it is in the file when this returns. A line that a kill has cut short goes.

    Raises:
        JaxptError: it cannot be written.
    """
    file = marks.folder(workdir, entry) / NAME
    with writes(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.read_bytes() if file.is_file() else b""
        if not whole.endswith(b"\n") and whole:
            os.truncate(file, whole.rfind(b"\n") + 1)
    append(file, record)


def entries(workdir: Path) -> list[str]:
    """Returns the names of the entries that processes which follow the run have scored."""
    return sorted(file.parent.name for file in (workdir / marks.FOLDER).glob(f"*/{NAME}"))


def records_of(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of a run's metrics with those of its followers among them, ascending.

    Of an entry that was asked in several ways it is those of the way that was asked last.

    Raises:
        JaxptError: a broken line that is not the last of its file.
    """
    out = read(workdir / "metrics.jsonl")
    for entry in entries(workdir):
        every = read(marks.folder(workdir, entry) / NAME)
        mine = [r for r in read_entry(workdir, entry) if r["asked"] == every[-1]["asked"]]
        out += [{key: value for key, value in r.items() if key not in FACTS} for r in mine]
    return sorted(out, key=lambda r: r["step"])
