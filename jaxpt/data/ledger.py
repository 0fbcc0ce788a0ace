"""Which rows of which source were used, as ranges in permuted order: what keeps a sample from being used twice."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Range = tuple[int, int]  # (start, stop)


@dataclass(frozen=True)
class Used:
    """Positions start, start + every, … below stop of one epoch's order of one source; `key` decides that order."""

    fingerprint: str
    key: str
    epoch: int
    start: int
    stop: int
    name: str = ""
    path: str = ""
    every: int = 1


class Ledger:
    """A set of used rows; what two runs used together is their union, so branches of runs merge."""

    def __init__(self, entries: Iterable[Used] = ()):
        """Merges `entries`: ranges of one order that overlap or touch become one."""
        groups: dict[tuple[str, str, int], list[Used]] = {}
        for entry in entries:
            if entry.stop > entry.start:
                groups.setdefault((entry.fingerprint, entry.key, entry.epoch), []).append(entry)
        self._ranges: dict[tuple[str, str, int], list[Range]] = {}
        merged: list[Used] = []
        for group, used in groups.items():
            ranges = joined((e.start, e.stop) for e in used if e.every == 1)
            strides = sorted({(e.start, e.stop, e.every) for e in used if e.every > 1})
            whole = _with_strides(ranges, strides)
            if len(whole) <= len(ranges) + len(strides):  # siblings that took all rows between them
                ranges, strides = whole, []
            self._ranges[group] = whole
            named = (used[-1].name, used[-1].path)
            merged += [Used(*group, start, stop, *named) for start, stop in ranges]
            merged += [Used(*group, start, stop, *named, every) for start, stop, every in strides]
        self.entries = sorted(merged, key=lambda e: (e.name, e.fingerprint, e.epoch, e.start, e.every))

    def union(self, other: "Ledger") -> "Ledger":
        """Returns what either has used."""
        return Ledger([*self.entries, *other.entries])

    def common(self, other: "Ledger") -> "Ledger":
        """Returns what both have used."""
        parts = []
        for group, ranges in self._ranges.items():
            name = next((e.name, e.path) for e in self.entries if (e.fingerprint, e.key, e.epoch) == group)
            both = _overlap(ranges, other._ranges.get(group, []))
            parts += [Used(*group, start, stop, *name) for start, stop in both]
        return Ledger(parts)

    def ranges(self, fingerprint: str, key: str, epoch: int) -> list[Range]:
        """Returns the used (start, stop) of one epoch, in order and apart."""
        return self._ranges.get((fingerprint, key, epoch), [])

    def rows(self, fingerprint: str) -> int:
        """Returns how many rows of a source were used, over all epochs."""
        mine = (ranges for group, ranges in self._ranges.items() if group[0] == fingerprint)
        return sum(stop - start for ranges in mine for start, stop in ranges)

    def to_json(self) -> list[dict[str, object]]:
        """Returns plain values; `every` only where rows are not side by side, as earlier versions do not know it."""
        return [{k: v for k, v in asdict(e).items() if k != "every" or v != 1} for e in self.entries]

    @classmethod
    def from_json(cls, values: Iterable[Mapping[str, Any]]) -> "Ledger":
        """Inverse of `to_json`."""
        return cls(Used(**v) for v in values)


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Returns the union of ranges, those that overlap or touch as one, in order."""
    out: list[Range] = []
    for start, stop in sorted(ranges):
        if out and start <= out[-1][1]:
            start, stop = out[-1][0], max(out.pop()[1], stop)
        out.append((start, stop))
    return out


def _with_strides(ranges: list[Range], strides: Sequence[tuple[int, int, int]]) -> list[Range]:
    """The union of ranges and of rows that lie `every` apart."""
    if not strides:
        return ranges
    rows = np.unique(np.concatenate([np.arange(*stride) for stride in strides]))
    edge = np.flatnonzero(np.diff(rows) != 1) + 1
    parts = np.split(rows, edge)
    return joined([*ranges, *((int(part[0]), int(part[-1]) + 1) for part in parts)])


def _overlap(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """What is in both of two lists of ranges, each in order and apart."""
    i, j, out = 0, 0, []
    while i < len(a) and j < len(b):
        start, stop = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        out += [(start, stop)] if start < stop else []
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return out
