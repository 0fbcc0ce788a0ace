"""In which order a run takes the rows of one source: each epoch permuted anew, used rows left out."""

import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np

from jaxpt.data.ledger import Ledger, Used
from jaxpt.data.permutation import Permutation
from jaxpt.errors import JaxptError


class SourceOrder:
    """Ordinal (0 for the first row this run takes of the source) to row number.

    The permutation's key derives from the source's fingerprint, the epoch and `order_seed`, never from the run's seed,
    so that a later run continues where an earlier one stopped.
    """

    def __init__(
        self,
        source: Any,
        *,
        order_seed: int = 0,
        repeat: int = 1,
        used: Ledger | None = None,
        seen_documents: Collection[bytes] = (),
        name: str = "",
    ):
        """Lists the free ranges of `repeat` epochs.

        Args:
            source: a `PackedSource`.
            order_seed: chooses another order.
            repeat: whole epochs that may be taken.
            used: rows taken by earlier runs.
            seen_documents: ids of documents to leave out; a row that holds one is left out whole.
            name: the source's name in the run.
        """
        self.source, self.name, self.repeat = source, name or source.name, repeat
        self.key = hashlib.sha256(f"{source.fingerprint}:{order_seed}".encode()).hexdigest()[:16]
        self._permutations: dict[int, Permutation] = {}
        free: list[tuple[int, int, int]] = []
        blocked = _rows_with(source, seen_documents)
        for epoch in range(repeat):
            at = 0
            for start, stop in [
                *(used or Ledger()).ranges(source.fingerprint, self.key, epoch),
                (source.rows, source.rows),
            ]:
                free += [(epoch, a, b) for a, b in self._open(epoch, at, start, blocked)]
                at = max(at, stop)
        self._epoch = np.array([e for e, _, _ in free], np.int64)
        self._start = np.array([a for _, a, _ in free], np.int64)
        self._offset = np.concatenate([[0], np.cumsum([b - a for _, a, b in free], dtype=np.int64)]).astype(np.int64)
        self.rows = int(self._offset[-1])

    def _open(self, epoch: int, start: int, stop: int, blocked: np.ndarray | None) -> list[tuple[int, int]]:
        if stop <= start:
            return []
        if blocked is None:
            return [(start, stop)]
        good = ~blocked[self._permute(epoch, np.arange(start, stop))]
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
                f"{int(ordinals.max()) + 1:,} was asked for; set sources.{self.name}.repeat higher or lower its weight"
            )
        at = np.searchsorted(self._offset, ordinals, side="right") - 1
        position = self._start[at] + ordinals - self._offset[at]
        out = np.empty(len(ordinals), np.int64)
        for epoch in np.unique(self._epoch[at]):
            here = self._epoch[at] == epoch
            out[here] = self._permute(int(epoch), position[here])
        return out

    def used(self, count: int) -> list[Used]:
        """Returns the ranges that the first `count` ordinals cover."""
        out = []
        for i in range(len(self._start)):
            n = min(count - int(self._offset[i]), int(self._offset[i + 1] - self._offset[i]))
            if n <= 0:
                break
            start = int(self._start[i])
            path = str(self.source.path)
            out.append(Used(self.source.fingerprint, self.key, int(self._epoch[i]), start, start + n, self.name, path))
        return out


def _rows_with(source: Any, documents: Collection[bytes]) -> np.ndarray | None:
    """Returns which rows hold a segment of one of the documents, or None where there are none to look for."""
    if not documents:
        return None
    wanted = np.frombuffer(b"".join(sorted(documents)), "<u8").reshape(-1, 2)
    ids = np.asarray(source.column("document_id"))
    pair = np.dtype([("a", "<u8"), ("b", "<u8")])
    known = np.isin(np.ascontiguousarray(ids).view(pair).ravel(), np.ascontiguousarray(wanted).view(pair).ravel())
    hit = known[np.asarray(source.column("segment_document"))]
    offsets = np.asarray(source.column("row_segments")).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(hit)])
    return total[offsets[1:]] > total[offsets[:-1]]


def documents_used(source: Any, ledger: Ledger, order_seed: int = 0) -> set[bytes]:
    """Returns the ids of all documents of `source` that a ledger's rows touch; a partly consumed one counts as seen."""
    order = SourceOrder(source, order_seed=order_seed)
    seen: set[bytes] = set()
    ids = source.column("document_id")
    for entry in ledger.entries:
        if (entry.fingerprint, entry.key) != (source.fingerprint, order.key):
            continue
        rows = order._permute(entry.epoch, np.arange(entry.start, entry.stop))
        offsets = source.column("row_segments")
        for row in rows:
            for n in source.column("segment_document")[int(offsets[row]) : int(offsets[row + 1])]:
                seen.add(ids[n].tobytes())
    return seen
