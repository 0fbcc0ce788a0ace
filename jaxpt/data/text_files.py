"""Documents from text files: JSONL (plain, gz, zst) and Parquet, on any file system fsspec knows."""

import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import fsspec
import pyarrow.parquet as pq
import zstandard

from jaxpt.data.remote import file_system
from jaxpt.errors import JaxptError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def list_files(pattern: str, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Returns the files a glob, a directory or a file name stands for, sorted.

    Of a directory, those with known suffixes; of one that a step of `jaxpt-data` wrote, its shards.

    Raises:
        JaxptError: there are none, or a file of an unknown kind was named.
    """
    fs, path = file_system(pattern)
    if fs.isdir(path):
        notes = fs.glob(f"{path}/manifests/*.json")  # a step of jaxpt-data wrote it: the shards are those it names
        made = {note.rsplit("/", 1)[-1].removesuffix(".json") for note in notes}
        files = (f"{path.rstrip('/')}/{name}" for name in made) if made else fs.find(path)
        found = [f for f in files if f.endswith(tuple(suffixes))]
    else:
        found = [f for f in fs.glob(path) if not fs.isdir(f)]
    if not found:
        raise JaxptError(f"{pattern}: no such file; give a file, a directory or a glob of {', '.join(suffixes)}")
    for f in found:
        if not f.endswith(tuple(suffixes)):
            raise JaxptError(f"{f} is of an unknown kind; known are {', '.join(suffixes)}")
    return sorted(fs.unstrip_protocol(f) if not _local(fs) else f for f in found)


def _local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))


def read_documents(
    file: str, fields: tuple[str, ...] = ("text",), at: Callable[[int], None] = lambda position: None
) -> Iterator[dict[str, Any]]:
    """Yields the documents of one file as dicts holding at least `fields`; tells `at` how many bytes are read.

    Raises:
        JaxptError: a line that is no JSON object, a field that is missing, with file and line; a truncated file.
    """
    try:
        with fsspec.open(file, "rb") as raw:
            documents = _parquet(raw, file, fields) if file.endswith(".parquet") else _json_lines(raw, file)
            for number, document in enumerate(documents, 1):
                for field in fields:
                    if field not in document:
                        raise JaxptError(f"{file}:{number} lacks the field {field!r}; it has {', '.join(document)}")
                at(raw.tell())
                yield document
    except (EOFError, gzip.BadGzipFile, zstandard.ZstdError) as e:
        raise JaxptError(f"{file} is truncated or not compressed as its name says ({e})") from e


def _json_lines(raw: IO[bytes], file: str) -> Iterator[dict[str, Any]]:
    stream: Any = raw
    if file.endswith(".gz"):
        stream = gzip.GzipFile(fileobj=raw)
    elif file.endswith(".zst"):
        stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    for number, line in enumerate(io.BufferedReader(stream), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            raise JaxptError(f"{file}:{number} is not JSON ({e}); clean it first with jaxpt-data clean") from e
        if not isinstance(document, dict):
            raise JaxptError(f"{file}:{number} is a {type(document).__name__}, not an object with a text field")
        yield document


def _parquet(raw: IO[bytes], file: str, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    try:
        table = pq.ParquetFile(raw)
    except Exception as e:  # pyarrow's errors share no base class
        raise JaxptError(f"{file} is not a Parquet file ({str(e)[:80]})") from e
    for field in fields:
        if field not in table.schema_arrow.names:
            raise JaxptError(f"{file} lacks the column {field!r}; it has {', '.join(table.schema_arrow.names)}")
    for batch in table.iter_batches(batch_size=1024):
        yield from batch.to_pylist()
