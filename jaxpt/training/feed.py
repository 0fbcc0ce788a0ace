"""The loop's view of the data: batches from a step on, realised shares, and what a checkpoint must remember."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np


class Feed(Protocol):
    """A pure function from the step to its global batch, with its bookkeeping."""

    def iterate(self, start_step: int, rows: slice | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields `(step, batch)` from `start_step` to the run's end, only `rows` of each batch where given."""

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Wanted and realised share of each source after `step` finished steps."""

    def to_save(self, step: int) -> dict[str, Any]:
        """The schedule log and the ledger after `step` finished steps, JSON-ready."""
