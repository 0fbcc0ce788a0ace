"""Every kind of input file as records: JSON lines, Parquet, WARC, HTML and plain text, on any file system.

A reader yields `(place, record)` for each record and a `Problem` for whatever is not one; it never stops at
a bad one. The line ends of every text are line feeds from here on.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from data_tools.io import columns
from data_tools.io.batch import PLACE, from_rows
from jaxpt.data import text_files
from jaxpt.data.caps import RAW, Caps
from jaxpt.data.parquet_pages import ROWS, bounded_batches
from jaxpt.errors import JaxptError
from jaxpt.files import compressed
from jaxpt.files.compressed import decompressed
from jaxpt.files.strangers import is_deep

BYTES = 8 << 20  # of a batch, which has at most `ROWS`; a longer record is a batch alone
OTHER_KINDS = ("warc", "wet", "html", "htm", "txt")
SUFFIXES = (*text_files.SUFFIXES, *(f".{kind}{pack}" for kind in OTHER_KINDS for pack in text_files.PACKED))
BROKEN = "broken JSON"
_FAST = msgspec.json.Decoder()  # gives what `json` gives, or an error
DAMAGED = (*compressed.DAMAGED, zstandard.ZstdError, pa.ArrowInvalid)


@dataclass(frozen=True)
class Problem:
    """A line, row or page that is not a record."""

    place: int  # line, row or page, from 0
    reason: str
    start: str  # the first 200 characters


@dataclass
class BytesRead:
    """How many bytes of the file were read."""

    bytes: int = 0


RecordOrProblem = tuple[int, dict] | Problem
Repaired = tuple[pa.RecordBatch | Problem, int]  # and how many texts were repaired


def kind_of(path: str) -> str:
    """Returns "jsonl", "parquet", "warc", "html" or "txt"."""
    name = path.removesuffix(".gz").removesuffix(".zst")
    kind = name.rsplit(".", 1)[-1]
    if kind in text_files.JSON_LINES:
        return "jsonl"
    return {"htm": "html", "wet": "warc"}.get(kind, kind)


def output_name(path: str) -> str:
    """Returns the output shard's name: the input's; what is packed as zst, gz or of no kind that is written, as zst.

    `.json` and `.ndjson` become `.jsonl`: a folder's `.json` files are notes, such as `clean.json`.
    """
    name = path.rsplit("/", 1)[-1]
    bare = name.removesuffix(".gz").removesuffix(".zst")
    kind = kind_of(name)
    if kind == "jsonl":
        return f"{bare.rsplit('.', 1)[0]}.jsonl{'.zst' if bare != name else ''}"
    return name if kind == "parquet" else f"{bare}.jsonl.zst"


def name_before(name: str) -> str:
    """Returns the name that an earlier version, which packed as gz, would have given to an output shard."""
    return f"{name.removesuffix('.zst')}.gz" if name.endswith(".jsonl.zst") else name


@contextmanager
def _open(path: str, progress: BytesRead) -> Iterator[BinaryIO]:
    with fsspec.open(path, "rb") as raw:
        counted = _Counted(raw, progress)
        if kind_of(path) == "warc":  # whose reader decompresses member by member
            yield counted
        else:
            yield decompressed(counted, path)


class _Counted(io.RawIOBase):
    """Passes reads on and notes how many bytes came."""

    def __init__(self, raw: BinaryIO, progress: BytesRead):
        self._raw, self._progress = raw, progress

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self._raw.read(size)
        self._progress.bytes += len(block)
        return block

    def readinto(self, buffer: Any) -> int:
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def read(path: str, field: str, progress: BytesRead, caps: Caps = RAW) -> Iterator[RecordOrProblem]:
    """Yields what a file holds, one record at a time.

    Args:
        path: local or remote.
        field: of JSON lines and Parquet, where the text is.
        progress: counts how much was read.
        caps: what a record may take; one beyond them is a problem.

    Raises:
        JaxptError: the file is damaged as a whole, e.g. a truncated archive.
    """
    kind = kind_of(path)
    try:
        if kind == "parquet":
            for batch, _ in _parquet_batches(path, field, progress, caps):
                if isinstance(batch, Problem):
                    yield batch
                    continue
                for row in batch.to_pylist():
                    place = row.pop(PLACE)
                    yield place, ({**row, field: row.pop("text")} if field != "text" else row)
        else:
            with _open(path, progress) as file:
                reader = {"jsonl": _lines, "warc": _pages, "html": _page, "txt": _text}[kind]
                for item in reader(file, field, path, caps):
                    if not isinstance(item, Problem):
                        item[1][field] = text_files.fold_line_ends(item[1][field])
                    yield item
    except DAMAGED as error:
        why = " ".join(str(error).split())[:200]
        raise JaxptError(f"{path}: damaged archive ({why}); replace the file or leave it out of --input") from error


def read_batches(path: str, field: str, progress: BytesRead, caps: Caps = RAW) -> Iterator[Repaired]:
    """Yields batches with how many of their texts were repaired, and problems (with 0), in the file's order.

    Raises:
        JaxptError: as `read`.
    """
    if kind_of(path) == "parquet":
        yield from _parquet_batches(path, field, progress, caps)
        return
    rows: list[dict] = []
    places: list[int] = []
    size = 0
    for item in read(path, field, progress, caps):
        if isinstance(item, Problem):
            yield item, 0
            continue
        length = len(item[1][field])
        if rows and (size + length > BYTES or len(rows) == ROWS):
            yield from_rows(rows, places, field)
            rows, places, size = [], [], 0
        places.append(item[0])
        rows.append(item[1])
        size += length
    if rows:
        yield from_rows(rows, places, field)


def _lines(file: BinaryIO, field: str, path: str, caps: Caps) -> Iterator[RecordOrProblem]:
    place, number, first = 0, 0, None
    while True:
        line, whole = text_files.read_line(file, caps.largest_record)
        if not line:
            return
        if not whole:
            yield Problem(place, f"line longer than {caps.largest_record} bytes", line[:200].decode("utf-8", "replace"))
        elif line.strip():
            item = _parse(line, place, field, caps)
            broken, number = isinstance(item, Problem) and item.reason == BROKEN, number + 1
            if number == 1 and broken:
                first = line
            elif number == 2 and broken and first and text_files.spans_lines(first):
                raise JaxptError(f"{path} {text_files.ONE_VALUE}")
            yield item
        place += 1


def _parse(line: bytes, place: int, field: str, caps: Caps) -> RecordOrProblem:
    start = line[:200].decode("utf-8", "replace")
    try:
        row = _json(line, place)
    except UnicodeDecodeError:
        return Problem(place, "invalid UTF-8", start)
    except RecursionError:
        return Problem(place, text_files.too_deep(caps), start)
    except ValueError:
        return Problem(place, BROKEN, start)
    if is_deep(row, caps.deepest_json):
        return Problem(place, text_files.too_deep(caps), start)
    if not isinstance(row, dict):
        return Problem(place, f"a {type(row).__name__} instead of an object", start)
    if field not in row:
        return Problem(place, f"field {field!r} is missing", start)
    if not isinstance(row[field], str):
        return Problem(place, f"field {field!r} is a {type(row[field]).__name__} instead of a string", start)
    return place, row


def _json(line: bytes, place: int) -> Any:
    try:
        return _FAST.decode(line)
    except (ValueError, RecursionError):  # broken, or what only `json` reads: NaN, unpaired surrogates, 1e400
        return json.loads(line.decode("utf-8-sig" if place == 0 else "utf-8"))


def _text(file: BinaryIO, field: str, path: str, caps: Caps) -> Iterator[RecordOrProblem]:
    data = file.read(caps.largest_record + 1)
    if len(data) > caps.largest_record:
        yield Problem(0, f"file longer than {caps.largest_record} bytes", data[:200].decode("utf-8", "replace"))
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Problem(0, "invalid UTF-8", data[:200].decode("utf-8", "replace"))
        return
    if text.strip():
        yield 0, {field: text, "path": path.rsplit("/", 1)[-1]}


def _page(file: BinaryIO, field: str, path: str, caps: Caps) -> Iterator[RecordOrProblem]:
    from data_tools.io.html import decode, main_text  # resiliparse is only needed here

    data = file.read(caps.largest_record + 1)
    why, text = f"file longer than {caps.largest_record} bytes", ""
    if len(data) <= caps.largest_record:
        try:
            why, text = "no text in the page", main_text(decode(data), caps.deepest_html)
        except ValueError as error:
            why = str(error)
    if text:
        yield 0, {field: text, "path": path.rsplit("/", 1)[-1]}
    else:
        yield Problem(0, why, data[:200].decode("utf-8", "replace"))


def _pages(file: BinaryIO, field: str, path: str, caps: Caps) -> Iterator[RecordOrProblem]:
    from data_tools.io.html import pages

    for place, page in enumerate(pages(file, path, caps)):
        if isinstance(page, str):
            yield Problem(place, page, "")
        else:
            yield place, {**page, field: page.pop("text")}


def _parquet_batches(path: str, field: str, progress: BytesRead, caps: Caps) -> Iterator[Repaired]:
    place = 0
    try:
        with fsspec.open(path, "rb") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            size, rows = int(getattr(raw, "size", 0) or 0), max(file.metadata.num_rows, 1)
            for batch in bounded_batches(file, raw, caps, "://" not in path):
                if isinstance(batch, tuple):
                    yield from ((Problem(place + i, batch[2], ""), 0) for i in range(batch[1]))
                    place += batch[1]
                    continue
                places = pa.array(range(place, place + len(batch)), pa.int64())
                place += len(batch)
                progress.bytes = size * place // rows
                for item in columns.records(columns.plain(batch), places, field):
                    yield from (
                        _without_long(item, caps.largest_record)
                        if isinstance(item, pa.RecordBatch)
                        else [(Problem(*item), 0)]
                    )
    except (pa.ArrowException, OSError) as error:
        raise text_files.damaged_parquet(path, place, error) from error


def _without_long(batch: pa.RecordBatch, longest: int) -> Iterator[Repaired]:
    """The batch without the rows whose text has more than `longest` bytes, which are problems."""
    long = pc.greater(pc.binary_length(batch.column("text")), longest)
    if pc.any(long).as_py():
        gone = batch.filter(long)
        for place, start in zip(gone.column(PLACE).to_pylist(), pc.utf8_slice_codeunits(gone.column("text"), 0, 200)):
            yield Problem(place, f"value longer than {longest} bytes", start.as_py()), 0
        batch = batch.filter(pc.invert(long))
    yield batch, 0
