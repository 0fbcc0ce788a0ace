"""Read shards of records, write what is kept beside what was removed, and never do a finished shard twice.

Each input shard gives an output shard of the same name, `removals/NAME.jsonl` (one line per removal: rule, value,
example), `quarantine/NAME.jsonl` (lines that are no record, with their place) and, last, `manifests/NAME.json`.
"""

import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import zstandard

from jaxpt.data.text_files import list_files
from jaxpt.errors import JaxptError
from jaxpt.terminal import progress

LONGEST = 256 << 20  # bytes of one line; a longer one is quarantined


@dataclass(frozen=True)
class Problem:
    """A line that is no record."""

    place: int  # line or row, from 0
    reason: str
    start: str  # the first 200 characters


@dataclass(frozen=True)
class Removed:
    """A record, or a part of one, that a step took out."""

    row: Mapping[str, Any]
    rule: str
    value: float | int | str | None
    detail: Mapping[str, Any]


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    with fsspec.open(path, "rb") as raw:
        if path.endswith(".gz"):
            yield gzip.GzipFile(fileobj=raw)
        elif path.endswith(".zst"):
            yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
        else:
            yield raw


def _lines(path: str, field: str) -> Iterator[dict | Problem]:
    with _open(path) as file:
        place = 0
        while line := file.readline(LONGEST):
            if not line.endswith(b"\n") and len(line) == LONGEST:
                while (rest := file.readline(LONGEST)) and not rest.endswith(b"\n"):
                    pass
                yield Problem(place, f"line longer than {LONGEST} bytes", line[:200].decode("utf-8", "replace"))
            elif line.strip():
                yield _parse(line, place, field)
            place += 1


def _parse(line: bytes, place: int, field: str) -> dict | Problem:
    start = line[:200].decode("utf-8", "replace")
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return Problem(place, "invalid UTF-8", start)
    except (ValueError, RecursionError):
        return Problem(place, "broken JSON", start)
    return _checked(row, place, field, start)


def _checked(row: Any, place: int, field: str, start: str) -> dict | Problem:
    if not isinstance(row, dict):
        return Problem(place, f"a {type(row).__name__} instead of an object", start)
    if field not in row:
        return Problem(place, f"field {field!r} is missing", start)
    if not isinstance(row[field], str):
        return Problem(place, f"field {field!r} is a {type(row[field]).__name__} instead of a string", start)
    return row


def _parquet(path: str, field: str) -> Iterator[dict | Problem]:
    import pyarrow.parquet as pq

    place = 0
    with fsspec.open(path, "rb") as raw, pq.ParquetFile(raw) as file:
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield _checked(row, place, field, str(row)[:200])
                place += 1


@dataclass(frozen=True)
class FileShard:
    """One input file; the field that holds the text is given as `text` whatever its name is."""

    path: str
    name: str
    fingerprint: str  # SHA-256 of the file
    field: str = "text"

    def records(self) -> Iterator[dict | Problem]:
        """Yields records and problems in file order.

        Raises:
            JaxptError: the file is damaged as a whole, e.g. a truncated archive.
        """
        import zlib

        try:
            yield from (_parquet if self.path.endswith(".parquet") else _lines)(self.path, self.field)
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise JaxptError(
                f"{self.path}: damaged archive ({error}); replace the file or leave it out of --input"
            ) from error

    def rows(self) -> Iterator[dict]:
        """Yields the valid records."""
        for row in self.records():
            if not isinstance(row, Problem):
                yield row if self.field == "text" else {**row, "text": row[self.field]}


def open_shards(pattern: str, field: str = "text") -> list[FileShard]:
    """Returns the files that match `pattern` (comma-separated files, folders or globs, local or remote), by name.

    Raises:
        JaxptError: nothing matches, an unknown kind of file, or two files of one name.
    """
    paths = sorted({path for part in pattern.split(",") for path in list_files(part.strip())})
    shards = []
    for path in paths:
        with fsspec.open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        shards.append(FileShard(path, path.rsplit("/", 1)[-1], digest.hexdigest(), field))
    names = [s.name for s in shards]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise JaxptError(f"--input={pattern}: two files are called {twice[0]!r}; outputs take the inputs' names")
    return sorted(shards, key=lambda s: s.name)


class _Writer:
    """Writes records to a temporary sibling in the format of the name; `close` renames."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temporary, self._rows = path, path.with_name(path.name + ".tmp"), []
        self._raw = None
        if path.suffix != ".parquet":
            self._raw = open(self._temporary, "wb")  # noqa: SIM115
            self._file = self._raw
            if path.suffix == ".gz":
                self._file = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)  # no name, no time: same bytes every run
            elif path.suffix == ".zst":
                self._file = zstandard.ZstdCompressor(3).stream_writer(self._raw, closefd=False)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one record."""
        if self._raw is None:
            self._rows.append(dict(row))
        else:
            text = json.dumps(row, ensure_ascii=False, default=str)
            self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        """Finishes the file and gives it its name."""
        if self._raw is None:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(self._rows), self._temporary, compression="zstd")
        else:
            if self._file is not self._raw:
                self._file.close()
            self._raw.close()
        os.replace(self._temporary, self._path)


def run_shards(
    shards: Sequence[FileShard],
    output: str | Path,
    settings: Mapping[str, Any],
    step: Callable[[FileShard, Iterator[dict]], Iterable[dict | Removed]],
    what: str,
) -> list[dict]:
    """Runs a step over shards, one after the other, skipping those whose manifest says that they are done.

    Args:
        shards: inputs.
        output: folder of the outputs.
        settings: everything that decides the output; a change makes the shards be done again.
        step: given a shard and its valid rows, yields each kept row and a `Removed` for each removal, in row order.
        what: name of the step, for the progress bar.

    Returns:
        The manifests.
    """
    output = Path(output)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    manifests = []
    with progress(len(shards), what, "shard") as bar:
        for shard in shards:
            note = output / "manifests" / f"{shard.name}.json"
            found = json.loads(note.read_text()) if note.is_file() else {}
            done = found.get("input") == shard.fingerprint and found.get("settings") == key
            manifests.append(found if done else _one_shard(shard, output, key, step, note))
            bar.update()
    return manifests


def _one_shard(shard: FileShard, output: Path, key: str, step: Callable, note: Path) -> dict:
    counts: dict[str, Any] = {"rows": 0, "kept": 0, "quarantined": 0, "removed": {}}
    writers = {"kept": _Writer(output / shard.name)}
    for folder in ("removals", "quarantine"):
        writers[folder] = _Writer(output / folder / f"{shard.name}.jsonl")

    def valid() -> Iterator[dict]:
        for row in shard.records():
            if isinstance(row, Problem):
                counts["quarantined"] += 1
                writers["quarantine"].write(vars(row))
            else:
                counts["rows"] += 1
                yield row if shard.field == "text" else {**row, "text": row[shard.field]}

    for out in step(shard, valid()):
        if isinstance(out, Removed):
            counts["removed"][out.rule] = counts["removed"].get(out.rule, 0) + 1
            row = {name: out.row.get(name) for name in ("id", "source", "url") if name in out.row}
            example = out.detail.get("excerpt", out.row["text"][:300])
            detail = {**out.detail, "excerpt": example}
            writers["removals"].write({**row, "rule": out.rule, "value": out.value, **detail})
        else:
            counts["kept"] += 1
            writers["kept"].write(out)
    for writer in writers.values():
        writer.close()
    manifest = {"name": shard.name, "input": shard.fingerprint, "settings": key, **counts}
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(note.name + ".tmp")
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True))
    os.replace(temporary, note)
    return manifest
