"""Records on disk, read again one at a time: joining texts takes memory for their names, not for their words."""

import json
import tempfile
from collections.abc import Mapping
from typing import Any


class Spool:
    """A temporary file of records."""

    def __init__(self):
        self._file = tempfile.TemporaryFile(prefix="jaxpt-data-")  # noqa: SIM115  lives as long as the spool

    def add(self, row: Mapping[str, Any]) -> int:
        """Keeps a record and returns its number."""
        number = self._file.seek(0, 2)
        self._file.write(json.dumps(row, default=str).encode() + b"\n")
        return number

    def __getitem__(self, number: int) -> dict:
        """Reads a record back."""
        self._file.seek(number)
        return json.loads(self._file.readline())

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()
