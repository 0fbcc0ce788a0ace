"""What record-wise steps pass on: an Arrow batch of records, and what a step made of it.

A batch holds `text` (large_string), the fields that steps ask for (`id`, `source`, `lang`, `url`; null where absent),
`_place` (line or row in the file, from 0) and `_rest` (JSON of all other fields, carried through untouched). A batch
from Parquet has the file's own columns instead of `_rest`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from jaxpt.errors import JaxptError

META = ("id", "source", "lang", "url")
PLACE, REST = "_place", "_rest"
SCHEMA = pa.schema(
    [("text", pa.large_string()), *((name, pa.string()) for name in META), (PLACE, pa.int64()), (REST, pa.string())]
)
BINS = 60  # of a rule's histogram
_string = msgspec.json.Encoder().encode  # of a text what `json.dumps(text, ensure_ascii=False)` is, as UTF-8


@dataclass(frozen=True)
class Place:
    """Where a batch comes from: its shard's name and the number of its first row among the shard's valid rows."""

    shard: str
    row: int


@dataclass(frozen=True)
class Removed:
    """A record, or a part of one, that a step took out.

    `row` counts within the batch; `detail` is any JSON, `excerpt` in it the text to show; `whole` is False where a part
    was cut out and the record stays.
    """

    row: int
    rule: str
    value: float | int | str | None
    detail: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True)
class Rule:
    """What a rule measures: a record stays when least <= value <= most; its histogram shows `low` … `high`."""

    name: str
    least: float | None = None
    most: float | None = None
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def edges(self) -> np.ndarray:
        """Returns the `BINS + 1` edges of the histogram."""
        make = np.geomspace if self.log else np.linspace
        return make(self.low, self.high, BINS + 1)

    def count(self, values: np.ndarray) -> np.ndarray:
        """Returns how many values `[n]` lie in each bin; values beyond the range lie in the outer bins, nan in none."""
        values = np.clip(values[~np.isnan(values)], self.low, self.high)
        return np.histogram(values, self.edges())[0]


@dataclass(frozen=True)
class Outcome:
    """What a step made of a batch: the records that stay, what was taken out, and each rule's value for every row."""

    kept: pa.RecordBatch
    removed: Sequence[Removed] = ()
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        batch: pa.RecordBatch,
        removed: Sequence[Removed] = (),
        texts: Mapping[int, str] | None = None,
        columns: Mapping[str, Any] | None = None,
        statistics: Mapping[str, np.ndarray] | None = None,
    ) -> "Outcome":
        """Drops the rows that have a whole `Removed`, replaces texts by row, sets columns given for all rows."""
        if texts:
            column = batch.column("text").to_pylist()
            for row, text in texts.items():
                column[row] = text
            batch = with_column(batch, "text", pa.array(column, batch.schema.field("text").type))
        for name, values in (columns or {}).items():
            batch = with_column(batch, name, values)
        gone = [r.row for r in removed if r.whole]
        if gone:
            stay = np.ones(len(batch), bool)
            stay[gone] = False
            batch = batch.filter(pa.array(stay))
        return cls(batch, removed, statistics or {})


def with_column(batch: pa.RecordBatch, name: str, values: Any) -> pa.RecordBatch:
    """Returns `batch` with the column `name` set or added."""
    if not isinstance(values, (pa.Array, pa.ChunkedArray)):
        values = pa.array(values)
    at = batch.schema.get_field_index(name)
    return batch.set_column(at, name, values) if at >= 0 else batch.append_column(name, values)


def texts(batch: pa.RecordBatch) -> list[str]:
    """Returns the texts."""
    return batch.column("text").to_pylist()


def strings(batch: pa.RecordBatch, name: str) -> list[str | None]:
    """Returns a field of every row as text, None where it is absent, null or (of JSON) no string.

    A field that is not one of `META` is looked up in the rest of the row.
    """
    if batch.schema.get_field_index(name) >= 0:
        return [None if v is None else str(v) for v in batch.column(name).to_pylist()]
    if batch.schema.get_field_index(REST) < 0:
        return [None] * len(batch)
    values = (json.loads(rest).get(name) for rest in batch.column(REST).to_pylist())
    return [value if isinstance(value, str) else None for value in values]


def whole_text(text: str) -> str:
    """Returns `text` with unpaired surrogates, which UTF-8 cannot hold, replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_json(value: Any) -> str:
    """Returns JSON that UTF-8 can hold: unpaired surrogates stay escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isascii() or _encodable(text) else json.dumps(value, default=str)


def from_rows(rows: Sequence[Mapping[str, Any]], places: Sequence[int], field: str = "text") -> tuple:
    """Returns a batch of JSON records and how many texts had unpaired surrogates, now U+FFFD.

    Args:
        rows: records with a string in `field`.
        places: where each lies in its file.
        field: holds the text; becomes the column `text`.
    """
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    repaired = 0
    for row, place in zip(rows, places):
        rest = dict(row)
        text = rest.pop(field)
        if not text.isascii() and not _encodable(text):
            text, repaired = whole_text(text), repaired + 1
        columns["text"].append(text)
        for name in META:
            value = rest.get(name)
            take = name != field and isinstance(value, str) and _encodable(value)
            columns[name].append(rest.pop(name) if take else None)
        columns[PLACE].append(place)
        columns[REST].append(to_json(rest))
    arrays = [pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA), repaired


def json_lines(batch: pa.RecordBatch, field: str = "text") -> bytes:
    """Returns a batch as JSON lines: the text under `field`, then the other columns, then the rest of the row."""
    if not len(batch):
        return b""
    names = [n for n in batch.schema.names if n not in ("text", PLACE, REST)]
    columns = {n: batch.column(n).to_pylist() for n in names}
    rest = batch.column(REST).to_pylist() if batch.schema.get_field_index(REST) >= 0 else ["{}"] * len(batch)
    lines = []
    for i, text in enumerate(texts(batch)):
        head = {field: text, **{n: v for n in names if (v := columns[n][i]) is not None}}
        more = rest[i]
        if any(f'"{name}":' in more for name in head):  # set by a step, or of another type in the file
            left = {k: v for k, v in json.loads(more).items() if k not in head}
            more = to_json(left)
        start = _object(head)
        lines.append(start if more == "{}" else b"%b, %b" % (start[:-1], more[1:].encode()))
    return b"\n".join([*lines, b""])


def _object(values: Mapping[str, Any]) -> bytes:
    """Returns what `to_json` does, of texts faster."""
    try:
        pairs = [
            b"%b: %b" % (_string(k), _string(v) if isinstance(v, str) else to_json(v).encode())
            for k, v in values.items()
        ]
    except UnicodeEncodeError:  # an unpaired surrogate
        return to_json(values).encode()
    return b"{%b}" % b", ".join(pairs)


def count_words(batch: pa.RecordBatch) -> np.ndarray:
    """Returns words `[n]` of each text: stretches without white space; in scripts without spaces, every character.

    Counted on the bytes: each character from U+3000 to U+9FFF (kana, Han and their marks) is a word.
    """
    column = batch.column("text")
    if not len(column):
        return np.zeros(0, np.int64)
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    buffer = column.buffers()[2]
    data = np.frombuffer(buffer, np.uint8)[offsets[0] : offsets[-1]] if buffer else np.zeros(0, np.uint8)
    space = data <= 32
    wide = (data >= 0xE3) & (data <= 0xE9)  # the first of three bytes
    begin = ~space & ~wide
    begin[1:] &= space[:-1]
    starts = (offsets[:-1] - offsets[0])[np.diff(offsets) > 0]
    begin[starts] = ~space[starts] & ~wide[starts]
    return np.diff(np.searchsorted(np.flatnonzero(begin | wide), offsets - offsets[0]))


def check(outcome: Outcome, rows: int, what: str) -> None:
    """Raises JaxptError when a step lost a row without saying so, or removed one twice."""
    gone = [r.row for r in outcome.removed if r.whole]
    if len(set(gone)) != len(gone):
        raise JaxptError(f"{what}: a record was removed twice; a step reports the first rule only")
    if len(outcome.kept) + len(gone) != rows:
        raise JaxptError(f"{what}: {rows} records came in, {len(outcome.kept)} stayed, {len(gone)} went")
