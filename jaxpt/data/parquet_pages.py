"""Parquet in bounded memory: how large the pages of a column are, read from their headers, before one is decompressed.

A few kilobytes of Parquet may hold a page of gigabytes, or say in a dictionary that one long value comes a million
times. The footer's sizes are a stranger's word; the header of a page is what the library allocates by.
"""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from jaxpt.data.caps import Caps

ROWS = 1024  # of a batch, at most
BUDGET = 64 << 20  # bytes of a batch, about
HEADER = 1 << 13  # bytes read at once of a page's header
LARGEST_HEADER = 1 << 24
AS_THEY_ARE = {"PLAIN", "RLE", "BIT_PACKED", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "BYTE_STREAM_SPLIT"}
Refused = tuple[int, int, str]  # first row, rows, and why they are not read


def bounded_batches(
    file: pq.ParquetFile, raw: IO[bytes], caps: Caps, is_local: bool = True
) -> Iterator[pa.RecordBatch | Refused]:
    """Yields a file's rows as batches of at most `ROWS`, fewer where they may be long; row groups that are not read.

    Args:
        file: opened on `raw`.
        raw: the file.
        caps: a row group with a page of more than `largest_page`, and than `largest_record`, is refused.
        is_local: whether looking at every page's header costs little; else only those of large columns are looked at.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
    """
    place, largest = 0, max(caps.largest_record, caps.largest_page)
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        rows, why = ROWS, ""
        for i in range(group.num_columns):
            chunk = group.column(i)
            sizes = [chunk.total_uncompressed_size]
            if is_local or chunk.total_uncompressed_size > caps.largest_record:
                sizes = list(page_sizes(raw, chunk)) or sizes
            if max(sizes) > largest:
                what = f"the column {chunk.path_in_schema[:100]} has a page of {max(sizes):,} bytes"
                why = f"{what}, {largest:,} are read"
                break
            expands = not AS_THEY_ARE.issuperset(chunk.encodings)
            if expands or sum(sizes) > BUDGET:
                of_row = max(sizes) * max(1, chunk.num_values // max(group.num_rows, 1))
                rows = min(rows, max(1, BUDGET // max(of_row, 1)))
        if why:
            yield place, group.num_rows, why
        else:
            yield from file.iter_batches(batch_size=rows, row_groups=[number])
        place += group.num_rows


def page_sizes(raw: IO[bytes], chunk: pq.ColumnChunkMetaData) -> Iterator[int]:
    """Yields how many bytes each page of a column becomes, as its header says; ends where a header cannot be read."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end = at + chunk.total_compressed_size
    while at < end:
        size, header = HEADER, None
        while header is None and size <= LARGEST_HEADER:  # statistics in it may be as long as values are
            raw.seek(at)
            header, size = _page_header(raw.read(size)), size * 8
        if header is None:
            return
        length, uncompressed, compressed = header
        if min(uncompressed, compressed) < 0:
            return
        yield uncompressed
        at += length + compressed


def _page_header(data: bytes) -> tuple[int, int, int] | None:
    """A page header's length, uncompressed and compressed size; None where `data` is no whole header.

    Thrift's compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """
    try:
        sizes: dict[int, int] = {}
        at, field = 0, 0
        while data[at]:
            kind, step = data[at] & 15, data[at] >> 4
            at += 1
            if step:
                field += step
            else:
                number, at = _varint(data, at)
                field = number >> 1 ^ -(number & 1)
            if kind == 5 and field in (2, 3):  # i32
                number, at = _varint(data, at)
                sizes[field] = number >> 1 ^ -(number & 1)
            else:
                at = _skip(data, at, kind, 0)
        return at + 1, sizes[2], sizes[3]
    except (IndexError, KeyError, ValueError):
        return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")


def _skip(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where the value of a field ends."""
    if depth > 8:
        raise ValueError("nested too deep")
    if kind in (1, 2):  # true, false
        return at
    if kind in (4, 5, 6):
        return _varint(data, at)[1]
    if kind in (3, 7):
        return at + (1 if kind == 3 else 8)
    if kind == 8:  # bytes
        size, at = _varint(data, at)
        if at + size > len(data):
            raise IndexError
        return at + size
    if kind == 12:  # a struct
        while data[at]:
            inner, step = data[at] & 15, data[at] >> 4
            at += 1
            if not step:
                at = _varint(data, at)[1]
            at = _skip(data, at, inner, depth + 1)
        return at + 1
    raise ValueError("a kind that no page header has")
