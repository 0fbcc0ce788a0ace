"""In which order a run takes the rows of one source: each epoch permuted by itself, used rows left out."""

import hashlib
from typing import NamedTuple

import numpy as np

from jaxpt.data.ledger import Ledger, Used
from jaxpt.data.packed import PackedSource
from jaxpt.data.permutation import Permutation
from jaxpt.data.seen import rows_with, uses_in_other_orders
from jaxpt.errors import JaxptError


def order_key(source: PackedSource, order_seed: int = 0) -> str:
    """Returns the key of a source's order; the ledger keeps it."""
    return hashlib.sha256(f"{source.fingerprint}:{order_seed}".encode()).hexdigest()[:16]


class Apart(NamedTuple):
    """Of the rows behind the first `shared`, a branch takes every `of`-th, beginning with number `part` (from 0)."""

    shared: int
    part: int
    of: int


class SourceOrder:
    """Ordinal (0 for the first row this run takes of the source) to row number.

    The permutation's key derives from the source's fingerprint, the epoch and `order_seed`, never from the run's seed,
    so that a later run continues where an earlier one stopped. `left_out` counts the rows that hold seen documents.
    """

    def __init__(
        self,
        source: PackedSource,
        *,
        order_seed: int = 0,
        repeat: int = 1,
        used: Ledger | None = None,
        seen_documents: np.ndarray | None = None,
        other_orders: bool = True,
        name: str = "",
        apart: Apart | None = None,
    ):
        """Lists the free ranges of `repeat` epochs.

        Args:
            source: a `PackedSource`.
            order_seed: chooses another order.
            repeat: whole epochs that may be taken.
            used: rows taken by earlier runs.
            seen_documents: ids of documents to leave out, uint64 `[n, 2]`; a row that holds one is left out whole.
            other_orders: a row that earlier runs took n times in orders of other seeds is left out of as many epochs.
            name: the source's name in the run.
            apart: which part of the rows a branch takes, so that its siblings take others.
        """
        self.source, self.name, self.repeat = source, name or source.name, repeat
        self.key = order_key(source, order_seed)
        self._permutations: dict[int, Permutation] = {}
        free: list[tuple[int, int, int]] = []
        blocked = None if seen_documents is None else rows_with(source, seen_documents)
        self.left_out = 0 if blocked is None else int(blocked.sum())
        uses = uses_in_other_orders(source, used, self.key) if used and other_orders else None
        for epoch in range(repeat):
            at = 0
            for start, stop in [
                *(used or Ledger()).ranges(source.fingerprint, self.key, epoch),
                (source.rows, source.rows),
            ]:
                free += [(epoch, a, b) for a, b in self._open(epoch, at, start, blocked, uses)]
                at = max(at, stop)
        self._epoch = np.array([e for e, _, _ in free], np.int64)
        self._start = np.array([a for _, a, _ in free], np.int64)
        self._offset = np.concatenate([[0], np.cumsum([b - a for _, a, b in free], dtype=np.int64)]).astype(np.int64)
        self.rows = int(self._offset[-1])
        self._apart = apart or Apart(self.rows, 0, 1)
        if apart is not None and self.rows > apart.shared:
            self.rows = apart.shared + max(0, -(-(self.rows - apart.shared - apart.part) // apart.of))

    def _open(
        self, epoch: int, start: int, stop: int, blocked: np.ndarray | None, uses: np.ndarray | None
    ) -> list[tuple[int, int]]:
        """The ranges of [start, stop) that may be taken; `uses` counts down what is left out."""
        if stop <= start:
            return []
        if blocked is None and uses is None:
            return [(start, stop)]
        rows = self._permute(epoch, np.arange(start, stop))
        good = np.ones(len(rows), bool) if blocked is None else ~blocked[rows]
        if uses is not None:
            good &= uses[rows] == 0
            uses[rows] = np.maximum(uses[rows] - 1, 0)
        edge = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
        return [(start + int(a), start + int(b)) for a, b in zip(edge[::2], edge[1::2])]

    def _permute(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations[epoch] = Permutation(self.source.rows, f"{self.key}:{epoch}")
        return self._permutations[epoch](positions)

    def take(self, ordinals: np.ndarray) -> np.ndarray:
        """Returns the row numbers at `ordinals`, int64.

        Raises:
            JaxptError: the source has no more rows.
        """
        if ordinals.size and int(ordinals.max()) >= self.rows:
            raise JaxptError(
                f"source {self.name} is used up: this run has {self.rows:,} rows of it and row "
                f"{int(ordinals.max()) + 1:,} was asked for; set "
                f"--config.sources.{self.name}.repeat higher or lower its weight"
            )
        shared, part, of = self._apart
        ordinals = np.where(ordinals < shared, ordinals, shared + part + (ordinals - shared) * of)
        at = np.searchsorted(self._offset, ordinals, side="right") - 1
        position = self._start[at] + ordinals - self._offset[at]
        out = np.empty(len(ordinals), np.int64)
        for epoch in np.unique(self._epoch[at]):
            here = self._epoch[at] == epoch
            out[here] = self._permute(int(epoch), position[here])
        return out

    def used(self, count: int) -> list[Used]:
        """Returns the ranges that the first `count` ordinals cover."""
        shared, part, of = self._apart
        first = shared + part
        return [*self._used(0, min(count, shared), 1), *self._used(first, first + (count - shared) * of, of)]

    def _used(self, first: int, stop: int, every: int) -> list[Used]:
        """The rows at ordinals first, first + every, … below `stop`, range by range."""
        out, path = [], str(self.source.path)
        for i in range(len(self._start)):
            offset, end = int(self._offset[i]), min(stop, int(self._offset[i + 1]))
            begin = first if first >= offset else first + -(-(offset - first) // every) * every
            if begin < end:
                count = -(-(end - begin) // every)
                start = int(self._start[i]) + begin - offset
                last = start + (count - 1) * every
                epoch, step = int(self._epoch[i]), every if count > 1 else 1
                out.append(Used(self.source.fingerprint, self.key, epoch, start, last + 1, self.name, path, step))
        return out
