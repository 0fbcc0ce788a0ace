"""Shards of records being written: JSON lines (plain, gz, zst) or Parquet, the same bytes on every run."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_tools.io.batch import META, PLACE, json_lines
from jaxpt.errors import JaxptError


class LinesWriter:
    """Writes JSON lines, compressed as the name says."""

    def __init__(self, file: Path, name: str):
        """Opens `file`, the place where the shard `name` is made."""
        self._raw = file.open("wb")
        self._file: Any = self._raw
        if name.endswith(".gz"):
            self._file = gzip.GzipFile("", "wb", 6, self._raw, mtime=0)  # no name, no time: same bytes every run
        elif name.endswith(".zst"):
            self._file = zstandard.ZstdCompressor(3, write_checksum=True).stream_writer(self._raw, closefd=False)

    def write(self, data: bytes) -> None:
        """Adds lines."""
        self._file.write(data)

    def write_value(self, value: Mapping[str, Any]) -> None:
        """Adds one value as a line."""
        text = json.dumps(value, ensure_ascii=False, default=str)
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        """Finishes the file."""
        if self._file is not self._raw:
            self._file.close()
        self._raw.close()


class BatchWriter:
    """Writes batches of records in the format of the shard's name, the text under `field`."""

    def __init__(self, file: Path, name: str, field: str = "text"):
        """Opens `file`, the place where the shard `name` is made."""
        self._file, self._name, self._field = file, name, field
        self._lines = None if name.endswith(".parquet") else LinesWriter(file, name)
        self._table: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds a batch.

        Raises:
            JaxptError: a step made a column of another type than in the batch before (Parquet).
        """
        if self._lines is not None:
            self._lines.write(json_lines(batch, self._field))
            return
        batch = batch.drop_columns([PLACE])
        batch = batch.rename_columns([self._field if n == "text" else n for n in batch.schema.names])
        if self._table is None:
            self._table = pq.ParquetWriter(self._file, batch.schema, compression="zstd")
        try:
            table = pa.Table.from_batches([batch]).select(self._table.schema.names).cast(self._table.schema)
        except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            why = " ".join(str(error).split())
            raise JaxptError(f"{self._name}: the columns changed on the way ({why})") from error
        if table.num_columns != batch.num_columns:
            raise JaxptError(f"{self._name}: the columns changed on the way, from {table.num_columns} columns")
        self._table.write_table(table)

    def close(self) -> None:
        """Finishes the file."""
        if self._lines is not None:
            self._lines.close()
        elif self._table is not None:
            self._table.close()
        else:
            empty = pa.schema([(self._field, pa.large_string()), *((name, pa.string()) for name in META)])
            pq.write_table(empty.empty_table(), self._file)
