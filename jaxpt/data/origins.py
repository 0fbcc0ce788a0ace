"""Where the documents of a source come from: one thing to read, to measure and to fingerprint, whatever its kind."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from jaxpt.data.caps import CAPS, Caps
from jaxpt.data.fingerprints import content_fingerprint
from jaxpt.data.remote import file_system
from jaxpt.data.text_files import SUFFIXES, Aside, list_files, read_documents, refuse
from jaxpt.data.tfds_split import PREFIX, TfdsSplit


class Origin(Protocol):
    """Documents in a fixed order. `size` and `position` count the same `unit`: what there is, and what was read."""

    size: int
    position: int
    unit: str

    def documents(
        self, fields: tuple[str, ...], caps: Caps = CAPS, aside: Aside = refuse
    ) -> Iterator[dict[str, object]]:
        """Yields every document as a dict that holds at least `fields`.

        What is none, or beyond `caps`, is given to `aside` instead.
        """

    def fingerprint(self, memo: Path) -> str:
        """Returns a hash of the content and its order; `memo` is a file that remembers the hashes of large files."""


class TextFiles:
    """JSONL (plain, gz, zst) and Parquet files, in the order of their names."""

    unit = "B"

    def __init__(self, patterns: str | Sequence[str]):
        """Lists the files.

        Args:
            patterns: a glob, directory or file on any file system fsspec knows, or a list of them.

        Raises:
            JaxptError: no such file, or one of an unknown kind.
        """
        self.files = [f for p in ([patterns] if isinstance(patterns, str) else patterns) for f in list_files(p)]
        self._sizes = [_size(f) for f in self.files]
        self.size, self.position = sum(self._sizes), 0

    def documents(
        self, fields: tuple[str, ...], caps: Caps = CAPS, aside: Aside = refuse
    ) -> Iterator[dict[str, object]]:
        """As `Origin.documents`."""
        self.position = 0

        def at(position: int) -> None:
            self.position = before + position

        for file, size in zip(self.files, self._sizes):
            before = self.position
            yield from read_documents(file, fields, at, caps, aside)
            self.position = before + size

    def fingerprint(self, memo: Path) -> str:
        """As `Origin.fingerprint`."""
        return content_fingerprint(self.files, memo)


def _size(file: str) -> int:
    fs, path = file_system(file)
    return int(fs.size(path) or 0)


def is_text(path: str) -> bool:
    """Whether `path` names text to be packed; else it is (or should be) a packed source's directory."""
    if path.startswith(PREFIX):
        return True
    fs, inner = file_system(path)
    if fs.isdir(inner):
        data = tuple(s for s in SUFFIXES if s != ".json")  # a plain .json may be a note of anything
        return not fs.exists(f"{inner}/source.json") and any(f.endswith(data) for f in fs.find(inner))
    return path.endswith(SUFFIXES) or fs.exists(inner) or "*" in path


def open_origin(path: str | Sequence[str]) -> Origin:
    """Returns the origin that `path` names: text files, or `tfds:…` for a dataset of TFDS.

    Raises:
        JaxptError: there is nothing, or nothing of a known kind.
    """
    return TfdsSplit(path) if isinstance(path, str) and path.startswith(PREFIX) else TextFiles(path)
