"""Which rows of which source were used, as ranges in permuted order: what keeps a sample from being used twice."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Used:
    """Positions [start, stop) of one epoch's order of one source; `key` decides that order."""

    fingerprint: str
    key: str
    epoch: int
    start: int
    stop: int
    name: str = ""
    path: str = ""


class Ledger:
    """A set of used ranges; adding is a union, so branches of runs merge."""

    def __init__(self, entries: Iterable[Used] = ()):
        """Starts with `entries`, merged."""
        self.entries: list[Used] = []
        for entry in entries:
            self.add(entry)

    def add(self, entry: Used) -> None:
        """Unites `entry` with what is there."""
        if entry.stop <= entry.start:
            return
        same, other = [], []
        for e in self.entries:
            alike = (e.fingerprint, e.key, e.epoch) == (entry.fingerprint, entry.key, entry.epoch)
            (same if alike and e.start <= entry.stop and entry.start <= e.stop else other).append(e)
        start = min([entry.start, *(e.start for e in same)])
        stop = max([entry.stop, *(e.stop for e in same)])
        merged = Used(entry.fingerprint, entry.key, entry.epoch, start, stop, entry.name, entry.path)
        self.entries = sorted([*other, merged], key=lambda e: (e.name, e.fingerprint, e.epoch, e.start))

    def union(self, other: "Ledger") -> "Ledger":
        """Returns what either has used."""
        return Ledger([*self.entries, *other.entries])

    def ranges(self, fingerprint: str, key: str, epoch: int) -> list[tuple[int, int]]:
        """Returns the used (start, stop) of one epoch, in order and apart."""
        return [(e.start, e.stop) for e in self.entries if (e.fingerprint, e.key, e.epoch) == (fingerprint, key, epoch)]

    def rows(self, fingerprint: str) -> int:
        """Returns how many rows of a source were used, over all epochs."""
        return sum(e.stop - e.start for e in self.entries if e.fingerprint == fingerprint)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns plain values."""
        return [asdict(e) for e in self.entries]

    @classmethod
    def from_json(cls, values: Iterable[dict[str, Any]]) -> "Ledger":
        """Inverse of `to_json`."""
        return cls(Used(**v) for v in values)
