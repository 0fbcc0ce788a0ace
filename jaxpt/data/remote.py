"""Packed sources on object stores (gs://, s3://, …): columns copied once, rows read by their byte ranges.

An ArrayRecord file is a Riegeli file whose chunks hold a record each ("group_size:1,uncompressed", as `PackedWriter`
writes), and whose footer lists where each chunk begins: with that list a row is one ranged read, on any file system
that fsspec knows. (Formats: github.com/google/riegeli, doc/riegeli_records_file_format.md; github.com/google/
array_record, cpp/layout.proto.)
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import numpy as np
from fsspec import AbstractFileSystem

from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError
from jaxpt.files.partial import writes

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 65_536, 24, 40  # bytes; a block header is at every multiple of BLOCK
SIMPLE, PLAIN = ord("r"), 0  # a chunk of records one after another; no compression
TAGS = (0x08, 0x10, 0x18)  # of a footer's entry: chunk_offset, decoded_data_size, num_records
PIECE = 2**22  # bytes copied at once


def default_cache() -> Path:
    """Where packed text and copied columns are kept by default: `$XDG_CACHE_HOME/jaxpt`, else `~/.cache/jaxpt`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpt"


def is_remote(path: str | Path) -> bool:
    """Whether `path` is an address (`gs://…`) rather than a path of this machine."""
    return "://" in str(path)


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system of an address and the path on it.

    Raises:
        JaxptError: its kind is unknown, or needs a package that is not installed.
    """
    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise JaxptError(f"{address} cannot be opened: {error}; for gs:// install jaxpt[gcs]") from error


def file_digest(address: str, on_piece: Callable[[bytes], object] = lambda piece: None) -> str:
    """Returns the SHA-256 (hex) of a file anywhere; `on_piece` receives its content piece by piece on the way."""
    fs, path = file_system(address)
    digest = hashlib.sha256()
    with fs.open(path, "rb") as source:
        while piece := source.read(PIECE):
            digest.update(piece)
            on_piece(piece)
    return digest.hexdigest()


def local_copy(address: str, size: int, digest: str, cache: Path) -> Path:
    """Returns a copy in `cache` of the file at `address`, made unless it is there.

    Args:
        address: of a file.
        size: its bytes.
        digest: its SHA-256, which names the copy.
        cache: a folder, made where absent.

    Raises:
        JaxptError: the file at `address` is another one.
    """
    name = address.rsplit("/", 1)[-1]
    place = cache / "copies" / f"{digest[:32]}-{name}"
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    with writes(place), partial.open("wb") as target, progress(size, f"copy {name}", "B", scale=True) as bar:
        copied = file_digest(address, lambda piece: bar.update(target.write(piece)))
    if copied != digest:
        partial.unlink()
        raise JaxptError(f"{address} is not the file that source.json lists; copy the source there again")
    os.replace(partial, place)
    return place


class RangedReader:
    """The records of one ArrayRecord file, each read by its byte range; the same answers as ArrayRecordReader's."""

    def __init__(self, address: str):
        """Reads where each record lies.

        Raises:
            ValueError: the file is not ArrayRecord, or not of one plain record per chunk.
        """
        self._fs, self._path = file_system(address)
        self._size = int(self._fs.size(self._path) or 0)
        if self._size < BLOCK or self._size % BLOCK:
            raise ValueError(f"{self._size:,} bytes are not a whole number of blocks of {BLOCK:,}")
        (postscript,) = [records[0] for records in self._chunks([self._size - BLOCK], [self._size])]
        footer = int(_varints(np.frombuffer(postscript, np.uint8))[1])
        (entries,) = self._chunks([footer], [self._size - BLOCK])
        values = _varints(np.frombuffer(b"".join(entries[1:]), np.uint8)).reshape(len(entries) - 1, -1)
        if values.shape[1] != 6 or not (values[:, ::2] == TAGS).all() or not (values[:, 5] == 1).all():
            raise ValueError("its chunks hold more than one record each")
        self._begin = np.append(values[:, 1], footer).astype(np.int64)

    def num_records(self) -> int:
        """As ArrayRecordReader's."""
        return len(self._begin) - 1

    def read(self, records: Sequence[int]) -> list[bytes]:
        """Returns the given records, in that order; their ranges are fetched together."""
        at = np.asarray(records, np.int64)
        return [chunk[0] for chunk in self._chunks(self._begin[at].tolist(), self._begin[at + 1].tolist())]

    def _chunks(self, begin: list[int], end: list[int]) -> list[list[bytes]]:
        """The records of the chunks in the given byte ranges."""
        raw = self._fs.cat_ranges([self._path] * len(begin), begin, end, on_error="raise")
        return [_records(_without_block_headers(bytes(data), b)) for data, b in zip(raw, begin)]


def _without_block_headers(data: bytes, begin: int) -> bytes:
    """What a range of a Riegeli file holds of its chunks; `begin` is where in the file it lies."""
    first = -begin % BLOCK
    parts, at = [data[:first]], first
    while at < len(data):
        parts.append(data[at + BLOCK_HEADER : at + BLOCK])
        at += BLOCK
    return b"".join(parts)


def _records(chunk: bytes) -> list[bytes]:
    """The records of a plain chunk."""
    size = int.from_bytes(chunk[8:16], "little")
    data = np.frombuffer(chunk, np.uint8, count=min(size, len(chunk) - CHUNK_HEADER), offset=CHUNK_HEADER)
    if chunk[24] != SIMPLE or len(data) != size or data[0] != PLAIN:
        raise ValueError("a chunk is damaged or compressed")
    length = 1 + int(np.flatnonzero(data[1:11] < 128)[0])  # of the varint that says how long the sizes are
    start = 1 + length + int(_varints(data[1 : 1 + length])[0])
    sizes = _varints(data[1 + length : start])
    ends = start + np.cumsum(sizes)
    if int(ends[-1]) != size:
        raise ValueError("a chunk's records do not fill it")
    return [data[b:e].tobytes() for b, e in zip([start, *ends[:-1].tolist()], ends.tolist())]


def _varints(data: np.ndarray) -> np.ndarray:
    """The numbers of a stream of varints (7 bits a byte, the lowest first, the high bit on all bytes but the last)."""
    last = np.flatnonzero(data < 128)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(data)) - np.repeat(first, last - first + 1)
    return np.add.reduceat((data & 127).astype(np.uint64) << (7 * place).astype(np.uint64), first)
