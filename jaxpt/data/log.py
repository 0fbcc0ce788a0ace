"""The schedule log: from which step on which batch size and weights hold, and what was consumed until then."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class LogEntry:
    """What the plan says from `step` on; `weights` are integers over 2^32, in the order of the run's sources."""

    step: int
    batch_size: int
    sequence_length: int
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Anchor(LogEntry):
    """A point that was reached, from which every later batch can be computed.

    `row` counts the rows of all batches before `step`, `consumed` those of each source.
    """

    row: int
    consumed: tuple[int, ...]


class ScheduleLog:
    """What was (`anchors`: plan, policies, sources that ended, checkpoints) and what is planned (`entries`).

    An entry becomes an anchor when its step is reached: what was consumed until then is known only there, as policies
    and sources that end may change weights on the way.
    """

    def __init__(self, names: Sequence[str], anchors: Sequence[Anchor] = (), entries: Sequence[LogEntry] = ()):
        """Starts with `anchors`, the first of them at the first step asked for, and the whole plan in `entries`."""
        self.names = tuple(names)
        self.anchors: list[Anchor] = list(anchors)
        self.entries: list[LogEntry] = list(entries)

    def copy(self) -> "ScheduleLog":
        """Returns a log that can grow on its own."""
        return ScheduleLog(self.names, self.anchors, self.entries)

    def arranged(self, names: Sequence[str]) -> "ScheduleLog":
        """Returns the log with its sources in the order of `names`: those that are new in it were never taken.

        Raises:
            JaxptError: a source is missing of which rows were wanted or taken.
        """
        for i, name in enumerate(self.names):
            if name not in names and any(a.weights[i] or a.consumed[i] for a in self.anchors):
                raise JaxptError(
                    f"the checkpoint's sources are {', '.join(self.names)}, the run's are {', '.join(names)}"
                )
        columns = [self.names.index(n) if n in self.names else None for n in names]

        def row(values: Sequence[int]) -> tuple[int, ...]:
            return tuple(0 if i is None else values[i] for i in columns)

        anchors = [replace(a, weights=row(a.weights), consumed=row(a.consumed)) for a in self.anchors]
        return ScheduleLog(names, anchors, [replace(e, weights=row(e.weights)) for e in self.entries])

    def at(self, step: int) -> int:
        """Returns the index of the anchor in force at `step`."""
        i = bisect.bisect_right(self.anchors, step, key=lambda a: a.step) - 1
        if i < 0:
            raise JaxptError(f"the schedule log has no entry at step {step}; its first is {self.anchors[0].step}")
        return i

    def origin(self, i: int) -> Anchor:
        """Returns the anchor at which the weights in force at anchor `i` came into force."""
        while i and self.anchors[i - 1].weights == self.anchors[i].weights:
            i -= 1
        return self.anchors[i]

    def planned(self, step: int) -> LogEntry | None:
        """Returns the entry that the plan has in force at `step`."""
        return max((e for e in self.entries if e.step <= step), key=lambda e: e.step, default=None)

    def insert(self, anchor: Anchor) -> None:
        """Adds an anchor; one at the same step is replaced, later ones go, as they no longer follow.

        Raises:
            JaxptError: it has another number of sources than the log.
        """
        if not len(anchor.weights) == len(anchor.consumed) == len(self.names):
            raise JaxptError(f"schedule log: an entry of {len(anchor.weights)} sources, the run has {len(self.names)}")
        self.anchors = [*(a for a in self.anchors if a.step < anchor.step), anchor]

    def to_json(self) -> dict[str, object]:
        """Returns plain values."""
        anchors, entries = ([asdict(x) for x in some] for some in (self.anchors, self.entries))
        return {"names": list(self.names), "anchors": anchors, "entries": entries}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ScheduleLog":
        """Inverse of `to_json`."""

        def fields(value: Mapping[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}

        anchors = [Anchor(**fields(a)) for a in values["anchors"]]
        return cls(values["names"], anchors, [LogEntry(**fields(e)) for e in values["entries"]])
