"""Batches of a Parquet file as records: the text in whatever type Arrow has for text, everything else as it is."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from data_tools.io.batch import PLACE, with_column
from jaxpt.data.text_files import fold_line_ends

START = 200  # characters shown of a row that is not a record
BREAKS = ("\r", "\u2028", "\u2029")
NotARecord = tuple[int, str, str]  # place, reason, the row's beginning


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns a batch whose columns of views have types that Arrow can filter."""
    for name, kind in zip(batch.schema.names, batch.schema.types):
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            to = pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
            batch = with_column(batch, name, batch.column(name).cast(to))
    return batch


def records(batch: pa.RecordBatch, places: pa.Array, field: str) -> Iterator[pa.RecordBatch | NotARecord]:
    """Yields the rows of a batch that are no records, then the batch of the others with the text as `text`.

    Args:
        batch: columns of a Parquet file.
        places: of its rows, int64.
        field: holds the text: a string, or UTF-8 as bytes; also as a dictionary or an extension of either.
    """
    at = batch.schema.get_field_index(field)
    column = _bytes(batch.column(at)) if at >= 0 else None
    if column is None:
        kind = batch.schema.field(at).type if at >= 0 else None
        reason = f"field {field!r} is missing" if kind is None else f"field {field!r} is a {kind} instead of a string"
        yield from _not_records(batch, places, reason)
        return
    empty, broken = column.is_null(), _broken(column)
    yield from _not_records(batch.filter(empty), places.filter(empty), f"field {field!r} is null instead of a string")
    bare = batch.drop_columns([field])
    yield from _not_records(bare.filter(broken), places.filter(broken), f"field {field!r} is not UTF-8")
    good = pc.invert(pc.or_(empty, broken))
    text = column.filter(good).cast(pa.large_string())
    batch = with_column(bare, PLACE, places).filter(good)
    if field != "text" and batch.schema.get_field_index("text") >= 0:
        batch = batch.drop_columns(["text"])
    yield _in_place(batch, at, "text", _line_feeds(text))


def _in_place(batch: pa.RecordBatch, at: int, name: str, values: pa.Array) -> pa.RecordBatch:
    return batch.add_column(min(at, batch.num_columns), name, values)


def _bytes(column: pa.Array) -> pa.Array | None:
    """Returns a column of texts as bytes, None for a column of anything else."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    tests += (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(test(kind) for test in tests):
        return None
    return (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(pa.large_binary())


def _broken(column: pa.Array) -> pa.Array:
    """Returns which values of bytes are not UTF-8, `[n] bool`."""
    try:
        column.cast(pa.large_string())  # checks all at once
    except pa.ArrowInvalid:
        return pa.array([_is_broken(value) for value in column.to_pylist()], pa.bool_())
    return pa.array([False] * len(column), pa.bool_())


def _is_broken(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return True
    return False


def _not_records(batch: pa.RecordBatch, places: pa.Array, reason: str) -> Iterator[NotARecord]:
    for place, row in zip(places.to_pylist(), batch.to_pylist()):
        yield place, reason, str(row)[:START]


def _line_feeds(text: pa.Array) -> pa.Array:
    if not any(pc.any(pc.match_substring(text, mark)).as_py() for mark in BREAKS):
        return text
    return pa.array(map(fold_line_ends, text.to_pylist()), text.type)
