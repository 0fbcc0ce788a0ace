"""The schedule log: from which step on which batch size and weights hold, and what was consumed until then."""

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Anchor:
    """A point from which every later batch can be computed.

    `row` counts the rows of all batches before `step`; `weights` are integers over 2^32, `consumed` rows so far, both
    in the order of the run's sources.
    """

    step: int
    row: int
    batch_size: int
    sequence_length: int
    weights: tuple[int, ...]
    consumed: tuple[int, ...]


class ScheduleLog:
    """Anchors in order of steps, for a fixed list of source names."""

    def __init__(self, names: Sequence[str], anchors: Sequence[Anchor] = ()):
        """Starts with `anchors`; the first must be at step 0."""
        self.names = tuple(names)
        self.anchors: list[Anchor] = list(anchors)

    def at(self, step: int) -> int:
        """Returns the index of the anchor in force at `step`."""
        i = bisect.bisect_right([a.step for a in self.anchors], step) - 1
        if i < 0:
            raise JaxptError(f"the schedule log has no entry at step {step}; its first is {self.anchors[0].step}")
        return i

    def origin(self, i: int) -> Anchor:
        """Returns the anchor at which the weights in force at anchor `i` came into force."""
        while i and self.anchors[i - 1].weights == self.anchors[i].weights:
            i -= 1
        return self.anchors[i]

    def insert(self, anchor: Anchor) -> None:
        """Adds an anchor; one at the same step is replaced.

        Raises:
            JaxptError: it has another number of sources than the log.
        """
        if not len(anchor.weights) == len(anchor.consumed) == len(self.names):
            raise JaxptError(f"schedule log: an entry of {len(anchor.weights)} sources, the run has {len(self.names)}")
        self.anchors = [a for a in self.anchors if a.step != anchor.step]
        self.anchors.append(anchor)
        self.anchors.sort(key=lambda a: a.step)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"names": list(self.names), "anchors": [asdict(a) for a in self.anchors]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ScheduleLog":
        """Inverse of `to_json`."""
        anchors = [
            Anchor(**{k: tuple(v) if isinstance(v, list) else v for k, v in a.items()}) for a in values["anchors"]
        ]
        return cls(values["names"], anchors)
