"""Exact mixing: after every row, each source is strictly within one row of its share."""

import heapq
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from jaxpt.errors import JaxptError

ONE = 2**32  # integer weights of a mixture sum to this


def integer_weights(weights: Mapping[str, float], where: str = "mixture") -> dict[str, int]:
    """Returns `weights` as integers that sum to exactly 2^32, by largest remainder (a change below 2^-32 of the whole).

    Raises:
        JaxptError: no weight above zero, or one that is negative or not finite.
    """
    for name, w in weights.items():
        if isinstance(w, bool) or not isinstance(w, (int, float)) or not np.isfinite(w) or w < 0:
            raise JaxptError(f"{where}.{name} is {w!r}, a weight must be a finite number of at least 0")
    exact = {name: Fraction(w) for name, w in weights.items()}
    total = sum(exact.values())
    if not total:
        raise JaxptError(f"{where}: the weights sum to zero; give at least one source a weight above 0")
    scaled = {name: w * ONE / total for name, w in exact.items()}
    out = {name: int(w) for name, w in scaled.items()}
    rest = ONE - sum(out.values())
    by_remainder = sorted(scaled, key=lambda n: out[n] - scaled[n])
    for name in by_remainder[:rest]:
        out[name] += 1
    return out


class Quota:
    """The sequence of sources for constant integer weights, row by row.

    Source i's j-th row (j = 1, 2, …) may come once `w_i n > j - 1` and must have come when `w_i n >= j`: with these
    whole-numbered release times and deadlines, earliest deadline first meets them all (Tijdeman 1980, the chairman
    assignment problem; the quota method of Balinski & Young 1975), so that |count - w n| < 1 after every row n.
    """

    def __init__(self, weights: Sequence[int], counts: Sequence[int] | None = None):
        """Starts after `sum(counts)` rows, of which source i had `counts[i]`; without counts, at the beginning.

        Raises:
            JaxptError: the weights do not sum to 2^32, or the counts are not a state of this sequence.
        """
        if sum(weights) != ONE:
            raise JaxptError(f"quota weights sum to {sum(weights)}, not to 2^32")
        self.weights = [int(w) for w in weights]
        self.counts = [int(c) for c in (counts if counts is not None else [0] * len(weights))]
        self.rows = sum(self.counts)
        for w, c in zip(self.weights, self.counts):
            if abs(c * ONE - w * self.rows) >= ONE:
                raise JaxptError(f"quota: {c} of {self.rows} rows is not a state of a source of weight {w / ONE:.6g}")
        self._waiting: list[tuple[int, int]] = []  # (first row number that may be this source's, source)
        self._ready: list[tuple[int, int]] = []  # (last row number that may be, source)
        for i, w in enumerate(self.weights):
            if w:
                heapq.heappush(self._waiting, (self._release(i), i))

    def _release(self, i: int) -> int:
        return self.counts[i] * ONE // self.weights[i] + 1

    def _deadline(self, i: int) -> int:
        return -(-(self.counts[i] + 1) * ONE // self.weights[i])

    def take(self, rows: int) -> np.ndarray:
        """Returns the sources of the next `rows` rows, int32, and moves on."""
        out = np.empty(rows, np.int32)
        waiting, ready = self._waiting, self._ready
        for n in range(rows):
            self.rows += 1
            while waiting and waiting[0][0] <= self.rows:
                i = heapq.heappop(waiting)[1]
                heapq.heappush(ready, (self._deadline(i), i))
            _, i = heapq.heappop(ready)
            out[n] = i
            self.counts[i] += 1
            heapq.heappush(waiting, (self._release(i), i))
        return out
