"""A teacher's targets for the rows of a mixture: the caches of its sources, read in one width."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from jaxpt.data.packed import PackedSource
from jaxpt.data.target_cache import WAY_OUT, TargetCache
from jaxpt.errors import JaxptError

SAME = {"teacher": "teacher", "kind": "kind", "ids": "number of draws or ids", "temperature": "temperature"}


class TargetColumns(TypedDict):
    """What joins a batch: see `jaxpt.models.batch.DistillBatch`."""

    teacher_ids: np.ndarray
    teacher_weights: np.ndarray
    teacher_entropy: np.ndarray


class SourceTargets:
    """The caches of a run's sources, by the order in which `source_id` counts them."""

    def __init__(self, caches: Mapping[str, TargetCache], sources: Mapping[str, PackedSource]):
        """Checks that each cache is of its source's rows, and that all are of one teacher and of one kind.

        Args:
            caches: opened, by source.
            sources: of the run, in their order.

        Raises:
            JaxptError: a cache of other rows; caches that differ in what the loss depends on.
        """
        self.caches = dict(caches)
        for name, cache in caches.items():
            cache.check(sources[name])
        first = next(iter(caches))
        for cache in caches.values():
            for key, word in SAME.items():
                ours, theirs = caches[first].facts[key], cache.facts[key]  # type: ignore[literal-required]
                if ours != theirs:
                    raise JaxptError(
                        f"{caches[first].path} and {cache.path} differ in their {word} ({str(ours)[:12]}, "
                        f"{str(theirs)[:12]}); {WAY_OUT}"
                    )
        self.width = max(cache.width for cache in caches.values())
        self._by_id = [caches.get(name) for name in sources]
        self._names = list(sources)

    @property
    def temperature(self) -> float:
        """That all have."""
        return next(iter(self.caches.values())).facts["temperature"]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of each cache, by source."""
        return {name: cache.fingerprint for name, cache in self.caches.items()}

    def read(
        self, source_id: Sequence[int] | np.ndarray, row_id: Sequence[int] | np.ndarray, loss_weights: np.ndarray
    ) -> TargetColumns:
        """Returns the targets of rows `[B]` in the width of the widest cache.

        Raises:
            JaxptError: a damaged cache, or one without targets where the row has loss weights `[B, S]`.
        """
        source_id, row_id = np.asarray(source_id), np.asarray(row_id)
        b, s = loss_weights.shape
        ids, weights = np.zeros((b, s, self.width), np.int32), np.zeros((b, s, self.width), np.float32)
        entropy = np.zeros((b, s), np.float32)
        for i in np.unique(source_id):
            cache, here = self._by_id[i], np.flatnonzero(source_id == i)
            if cache is None:
                raise JaxptError(f"source {self._names[i]} has no cache of teacher targets")
            ids[here], weights[here], entropy[here] = cache.read(row_id[here], self.width)
            if ((weights[here, :, 0] > 0) < (loss_weights[here] > 0)).any():
                raise JaxptError(f"{cache.path} lacks targets at positions of its source that have some; {WAY_OUT}")
        return {"teacher_ids": ids, "teacher_weights": weights, "teacher_entropy": entropy}
