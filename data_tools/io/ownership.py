"""Folders that carry a note of who made them: nothing is removed, and no folder is written into, without it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

from data_tools.io import storage
from jaxpt.errors import JaxptError
from jaxpt.files.lock import NAME, Lock, inside
from jaxpt.files.partial import writes

NOTE = ".jaxpt-made"  # no suffix of data: nobody reads it as a shard
FORMAT = 1


def read_note(folder: str | Path) -> dict[str, Any] | None:
    """Returns the note in a folder, None where there is none or it is broken."""
    note = storage.read_json(storage.join(folder, NOTE))
    return note if isinstance(note, dict) and "format" in note else None


def write_note(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Marks a folder as made by us."""
    storage.write_json(storage.join(folder, NOTE), {**facts, "format": FORMAT})


@contextmanager
def writing(output: str | Path, command: str) -> Iterator[None]:
    """Makes the output folder of a command that writes shards, or goes on with the one that it made; one writer.

    Raises:
        JaxptError: the folder holds what this command did not write, or another process writes there.
    """
    if storage.is_remote(output):
        _claim(output, command)
        with _timed(output):
            yield
        return
    folder = Path(output)
    with Lock(inside(folder), folder, "--output").acquire(), writes(folder):
        _claim(folder, command)
        try:
            with _timed(folder):
                yield
        finally:
            if set(storage.list_all(folder)) <= {NOTE, NAME}:  # nothing came of it
                (folder / NOTE).unlink(missing_ok=True)


@contextmanager
def _timed(folder: str | Path) -> Iterator[None]:
    """Notes when a folder was begun, how often, and how many seconds the starts that came to their end took."""
    before, start = read_note(folder) or {}, time.monotonic()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_note(folder, {**before, "began": before.get("began", now), "starts": before.get("starts", 0) + 1})
    yield
    add_to_note(folder, {"seconds": round(before.get("seconds", 0.0) + time.monotonic() - start, 3)})


def add_to_note(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Adds facts to the note of a folder, or begins it."""
    write_note(folder, {**(read_note(folder) or {}), **facts})


def check_file(path: str | Path, mark: str) -> None:
    """Refuses to write over a file that is not an earlier one of ours, which holds `mark`.

    Raises:
        JaxptError: there is such a file, or a folder.
    """
    fs, inner = fsspec.core.url_to_fs(str(path))
    if fs.exists(inner) and (fs.isdir(inner) or mark.encode() not in fs.cat_file(inner)):
        raise JaxptError(f"{path} exists and is not what this command writes there; give another name, or move it away")


def _claim(folder: str | Path, command: str) -> None:
    note = read_note(folder)
    if note is not None:
        other = note.get("command")
        if other not in (None, command):
            raise JaxptError(f"{folder} holds what jaxpt-data {other} wrote; give another --output, or remove it first")
        return
    names = [n for n in storage.list_all(folder) if not n.startswith(".")]
    if names and not _made_before(folder, names):
        raise JaxptError(
            f"{folder} holds files that no jaxpt-data command made ({', '.join(names[:3])}), which might be "
            f"overwritten; give a new folder as --output"
        )
    write_note(folder, {"command": command})


def _made_before(folder: str | Path, names: list[str]) -> bool:
    """Whether a version that left no note wrote this: its manifests, or what a command writes last, show it."""
    if "store.json" in storage.list_names(storage.join(folder, "signatures")):  # dedup, killed while it signed
        return True
    place = storage.join(folder, "manifests")
    contents = [storage.read_json(storage.join(place, n)) for n in storage.list_names(place, ".json")]
    joined = storage.read_json(storage.join(folder, "longdoc.json"))  # of documents joined from many shards
    return any(isinstance(m, dict) and {"name", "input"} <= m.keys() for m in contents) or (
        isinstance(joined, dict) and {"divergence_bits", "shards"} <= joined.keys()
    )
