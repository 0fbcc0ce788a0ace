"""A batch of rows: its keys, stated once, with their dimensions and dtypes."""

from dataclasses import dataclass
from typing import Annotated, Generic, TypedDict, TypeVar, get_type_hints

import jax
import numpy as np

A = TypeVar("A", jax.Array, np.ndarray)  # on the devices, or as the loader reads it


@dataclass(frozen=True)
class Kind:
    """Dimensions (B rows, S positions, K ids of a position) and dtype of one entry of a batch."""

    dims: str
    dtype: type[np.generic]

    def shape(self, rows: int, length: int, width: int = 0) -> tuple[int, ...]:
        """The shape in a batch of `rows` rows of `length` positions, with `width` of a teacher's ids at each."""
        return tuple({"B": rows, "S": length, "K": width}[d] for d in self.dims)


Ids = Annotated[A, Kind("BS", np.int32)]
Weights = Annotated[A, Kind("BS", np.float32)]
RowIds = Annotated[A, Kind("B", np.int32)]


class Rows(TypedDict, Generic[A]):
    """Rows of one packed source. `segment_ids` count from 1, 0 is padding; `positions` restart in each segment."""

    tokens: Ids[A]
    targets: Ids[A]
    segment_ids: Ids[A]
    positions: Ids[A]
    loss_weights: Weights[A]


class Batch(Rows[A]):
    """Rows of a mixture; `source_id` says which source each row comes from."""

    source_id: RowIds[A]


class DistillBatch(Batch[A]):
    """Rows with a teacher's targets from a cache: ids and their weights (0: no id) at each position, and the entropy
    in nats that a cross-entropy with the weights exceeds the divergence by."""

    teacher_ids: Annotated[A, Kind("BSK", np.int32)]
    teacher_weights: Annotated[A, Kind("BSK", np.float32)]
    teacher_entropy: Weights[A]


class Delivered(Batch[np.ndarray]):
    """A batch as the loader gives it: with each row's number in its source, `[B]` int64."""

    row_id: np.ndarray


def kinds(of: type = Batch) -> dict[str, Kind]:
    """Returns the entries of `Batch` or `Rows` by key, in their order."""
    return {key: hint.__metadata__[0] for key, hint in get_type_hints(of, include_extras=True).items()}
