"""Documents from text files: JSON lines (plain, gz, zst) and Parquet, on any file system fsspec knows."""

import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from jaxpt.data.caps import CAPS, Caps
from jaxpt.data.parquet_pages import bounded_batches
from jaxpt.data.remote import file_system
from jaxpt.errors import JaxptError
from jaxpt.files.compressed import DAMAGED, PACKED, decompressed
from jaxpt.files.strangers import is_deep

JSON_LINES = ("jsonl", "ndjson", "json")
SUFFIXES = (*(f".{kind}{pack}" for kind in JSON_LINES for pack in PACKED), ".parquet")
ONE_VALUE = "is one JSON value over several lines, not a record in each line; write it so (jq -c '.[]' FILE)"
NAMED = 3  # files of an unknown kind that are named
SKIPPED = 1 << 20  # bytes of a longer line that are passed over at a time


@dataclass(frozen=True)
class LeftOut:
    """A record that is not read: `place` is FILE:LINE (a row of Parquet), `start` its first 200 characters."""

    place: str
    reason: str
    start: str


Aside = Callable[[LeftOut], object]  # is given each record that is left out


def refuse(record: LeftOut) -> None:
    """Raises a JaxptError for a record, where none may be left out."""
    raise JaxptError(f"{record.place}: {record.reason}; mend it (jaxpt-data clean leaves such records out)")


def list_files(pattern: str, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Returns the files a glob, a directory or a file name stands for, sorted.

    Of a directory and of a glob, those with known suffixes; the others are named on standard error. A plain `.json` in
    a directory counts where nothing else there does: beside data it is a description of them. Of a directory that a
    step of `jaxpt-data` wrote, its shards.

    Raises:
        JaxptError: there are none, a file of an unknown kind was named, or a shard is gone.
    """
    if not pattern.strip():
        raise JaxptError("an input is empty (a comma too many?); give a file, a directory or a glob")
    fs, path = file_system(pattern)
    known = tuple(suffixes)
    if fs.isdir(path):
        files_of_kind, others = _in_directory(fs, path.rstrip("/"), pattern, known)
    elif fs.exists(path):  # also one whose name holds a wildcard
        files_of_kind, others = [path], []
    else:
        try:
            names = [f for f in fs.glob(path) if not fs.isdir(f)]
        except ValueError as error:  # e.g. of **.jsonl
            raise JaxptError(f"{pattern}: {error}; write FOLDER/**/*.jsonl") from error
        files_of_kind = [f for f in names if f.endswith(known)]
        others = [f for f in names if f not in set(files_of_kind)]
    if not files_of_kind and not others:
        raise JaxptError(
            f"{pattern}: no such file{_where(fs, path)}; give a file, a directory or a glob of {', '.join(suffixes)}"
        )
    wrong = [f for f in files_of_kind if not f.endswith(known)] or (others if not files_of_kind else [])
    if wrong:
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        raise JaxptError(f"{wrong[0]}{more} is of an unknown kind; known are {', '.join(suffixes)}")
    if others:
        _warn_of_others(pattern, tuple(sorted(f.rsplit("/", 1)[-1] for f in others)))
    odd = [f for f in files_of_kind if is_local(fs) and not os.path.isfile(f)]
    if odd:
        raise JaxptError(f"{odd[0]} is not a regular file (a pipe, a device, or a link to nothing); leave it out")
    return sorted(fs.unstrip_protocol(f) if not is_local(fs) else f for f in files_of_kind)


def _where(fs: AbstractFileSystem, path: str) -> str:
    """Where a relative pattern was looked for: local paths come with the folder that the command runs in."""
    return f" (it was looked for as {path})" if is_local(fs) else ""


def _in_directory(
    fs: AbstractFileSystem, path: str, pattern: str, known: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Returns the files of a directory that are read, and those that are left out."""
    notes = fs.glob(f"{path}/manifests/*.json")  # a step of jaxpt-data wrote it: the shards are those it names
    if notes:
        made = [f"{path}/{note.rsplit('/', 1)[-1].removesuffix('.json')}" for note in notes]
        gone = [f for f in made if f.endswith(known) and not fs.exists(f)]
        if gone and fs.exists(f"{path}/tokenized.json"):
            raise JaxptError(f"{pattern} holds tokenized documents, not text; give it to jaxpt-data pack")
        if gone:
            raise JaxptError(
                f"{gone[0]} is gone, of which {pattern}/manifests is the record; run the step that made it again"
            )
        begun = {f.rsplit("/", 1)[-1].removesuffix(".jsonl") for f in fs.glob(f"{path}/removals/*.jsonl")}
        if lost := sorted(begun - {f.rsplit("/", 1)[-1] for f in made}):
            raise JaxptError(
                f"{pattern}/manifests has no {lost[0]}.json: that shard was not made to its end; run its step again"
            )
        return [f for f in made if f.endswith(known)], []
    there = fs.find(path)
    files = [f for f in there if f.endswith(known)]
    files_of_kind = [f for f in files if not f.endswith(".json")] or files
    return files_of_kind, [f for f in there if f not in set(files_of_kind)]


@functools.cache
def _warn_of_others(pattern: str, names: tuple[str, ...]) -> None:
    """Names the files that are left out, once in a process."""
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    what = "1 file that is" if len(names) == 1 else f"{len(names):,} files that are"
    way = "; name them (or a glob) to read them" if any(n.endswith(".json") for n in names) else ""
    print(f"{pattern}: {what} of no kind that is read here, left out: {shown}{way}", file=sys.stderr, flush=True)


def is_local(fs: AbstractFileSystem) -> bool:
    """Whether a file system is this machine's."""
    return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))


def fold_line_ends(text: str) -> str:
    """Returns `text` with every line end as a line feed: CR LF, lone CR and U+2028 as one, U+2029 as two.

    Vertical tabs, form feeds and U+0085 (in wrongly decoded text an ellipsis) stay.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.replace("\u2028", "\n").replace("\u2029", "\n\n")
    return text


def read_documents(
    file: str,
    fields: tuple[str, ...] = ("text",),
    at: Callable[[int], None] = lambda position: None,
    caps: Caps = CAPS,
    aside: Aside = refuse,
) -> Iterator[dict[str, object]]:
    """Yields the documents of one file as dicts holding at least `fields`; calls `at` with how many bytes are read.

    The line ends of `fields` that are texts are line feeds; bytes in a Parquet file are decoded as UTF-8. What is
    no JSON object, lacks a field or is beyond `caps` is given to `aside`, and reading goes on.

    Raises:
        JaxptError: no Parquet, a column that is missing, one JSON value over several lines, a damaged file.
    """
    try:
        with fsspec.open(file, "rb") as raw:
            read = _parquet if file.endswith(".parquet") else _json_lines
            for number, document in read(raw, file, fields, caps):
                if isinstance(document, LeftOut):
                    aside(document)
                    continue
                at(raw.tell())
                if why := _unfit(document, fields):
                    aside(LeftOut(f"{file}:{number}", why, repr(document)[:200]))
                else:
                    yield document
    except DAMAGED as e:
        raise JaxptError(f"{file} is truncated or not compressed as its name says ({e})") from e


def _unfit(document: dict[str, object], fields: tuple[str, ...]) -> str:
    """Makes text with line feeds of a document's `fields`; returns why it cannot, empty where it can."""
    for field in fields:
        if field not in document:
            return f"lacks the field {field!r}; it has {', '.join(document)[:200]}"
        value = document[field]
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as e:
                return f"field {field!r} is not UTF-8 ({e.reason})"
        document[field] = fold_line_ends(value) if isinstance(value, str) else value
    return ""


Read = Iterator[tuple[int, dict[str, object] | LeftOut]]  # with the line or row, from 1


def too_deep(caps: Caps) -> str:
    """Returns why a line is left out whose JSON is nested beyond `caps`."""
    return f"JSON nested more than {caps.deepest_json} deep"


def _json_lines(raw: IO[bytes], file: str, fields: tuple[str, ...], caps: Caps) -> Read:
    stream = decompressed(raw, file)
    for number in itertools.count(1):
        line, whole = read_line(stream, caps.largest_record)
        if not line:
            return
        if not line.strip() and whole:
            continue
        start = line[:200].decode("utf-8", "replace")
        if not whole:
            yield number, LeftOut(f"{file}:{number}", f"line longer than {caps.largest_record:,} bytes", start)
            continue
        try:
            document = json.loads(line)
        except RecursionError:
            yield number, LeftOut(f"{file}:{number}", too_deep(caps), start)
            continue
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            if number == 1 and spans_lines(line):
                raise JaxptError(f"{file} {ONE_VALUE}") from e
            yield number, LeftOut(f"{file}:{number}", f"not JSON ({e})", start)
            continue
        why = too_deep(caps) if is_deep(document, caps.deepest_json) else ""
        if not isinstance(document, dict):
            why = why or f"a {type(document).__name__}, not an object with a text field"
        yield number, LeftOut(f"{file}:{number}", why, start) if why else document


def read_line(file: BinaryIO, largest: int) -> tuple[bytes, bool]:
    """Returns the next line, empty at the end, and whether it is whole: of a longer one its first `largest` bytes.

    The rest of a longer line is passed over in bounded memory.
    """
    line = file.readline(largest + 1)
    if len(line) <= largest or line.endswith(b"\n"):
        return line, True
    while (rest := file.readline(SKIPPED)) and not rest.endswith(b"\n"):
        pass
    return line[:largest], False


def spans_lines(line: bytes) -> bool:
    """Whether a file's first line, which is not JSON, begins a value of several lines: an array, or a bare `{`."""
    return line.lstrip(b"\xef\xbb\xbf \t")[:1] == b"[" or line.strip() == b"{"


def _parquet(raw: IO[bytes], file: str, fields: tuple[str, ...], caps: Caps) -> Read:
    try:
        table = pq.ParquetFile(raw)
    except Exception as e:  # pyarrow's errors share no base class
        raise JaxptError(f"{file} is not a Parquet file ({str(e)[:80]})") from e
    for field in fields:
        if field not in table.schema_arrow.names:
            raise JaxptError(f"{file} lacks the column {field!r}; it has {', '.join(table.schema_arrow.names)}")
    rows, numbers, largest = 0, itertools.count(1), caps.largest_record
    try:
        for batch in bounded_batches(table, raw, caps, "://" not in file):
            if isinstance(batch, tuple):
                for number in itertools.islice(numbers, batch[1]):
                    yield number, LeftOut(f"{file}:{number}", batch[2], "")
                rows += batch[1]
                continue
            for row, number in zip(batch.to_pylist(), numbers):
                long = next((f for f in fields if isinstance(t := row.get(f), str) and len(t) > largest), None)
                why = f"a value longer than {largest:,} characters"
                yield number, row if long is None else LeftOut(f"{file}:{number}", why, row[long][:200])
            rows += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise damaged_parquet(file, rows, e) from e


def damaged_parquet(file: str, rows: int, error: Exception) -> Exception:
    """Returns what to raise where a Parquet file cannot be read on after `rows` rows: an error that names both.

    What the operating system reports (it has a number) is not the file's fault and stays as it is.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    why = " ".join(str(error).split())[:120]
    return JaxptError(f"{file}: a page after row {rows:,} is damaged ({why}); replace the file, or leave it out")
