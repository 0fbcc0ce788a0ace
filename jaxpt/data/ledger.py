"""Which rows of which source were used, as ranges in permuted order: what keeps a sample from being used twice."""

from collections.abc import Iterable, Mapping
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
    """A set of used ranges; what two runs used together is their union, so branches of runs merge."""

    def __init__(self, entries: Iterable[Used] = ()):
        """Merges `entries`: ranges of one order that overlap or touch become one."""
        groups: dict[tuple[str, str, int], list[Used]] = {}
        for entry in entries:
            if entry.stop > entry.start:
                groups.setdefault((entry.fingerprint, entry.key, entry.epoch), []).append(entry)
        self._ranges: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
        merged: list[Used] = []
        for group, used in groups.items():
            ranges: list[tuple[int, int]] = []
            for start, stop in sorted((e.start, e.stop) for e in used):
                if ranges and start <= ranges[-1][1]:
                    start, stop = ranges[-1][0], max(ranges.pop()[1], stop)
                ranges.append((start, stop))
            self._ranges[group] = ranges
            merged += [Used(*group, start, stop, used[-1].name, used[-1].path) for start, stop in ranges]
        self.entries = sorted(merged, key=lambda e: (e.name, e.fingerprint, e.epoch, e.start))

    def union(self, other: "Ledger") -> "Ledger":
        """Returns what either has used."""
        return Ledger([*self.entries, *other.entries])

    def ranges(self, fingerprint: str, key: str, epoch: int) -> list[tuple[int, int]]:
        """Returns the used (start, stop) of one epoch, in order and apart."""
        return self._ranges.get((fingerprint, key, epoch), [])

    def rows(self, fingerprint: str) -> int:
        """Returns how many rows of a source were used, over all epochs."""
        return sum(e.stop - e.start for e in self.entries if e.fingerprint == fingerprint)

    def to_json(self) -> list[dict[str, object]]:
        """Returns plain values."""
        return [asdict(e) for e in self.entries]

    @classmethod
    def from_json(cls, values: Iterable[Mapping[str, Any]]) -> "Ledger":
        """Inverse of `to_json`."""
        return cls(Used(**v) for v in values)
