"""From the loader's numpy rows to arrays on the mesh: each host reads and places its own slice."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxpt.models.batch import Batch, DistillBatch, kinds
from jaxpt.sharding import batch_sharding


def host_rows(mesh: Mesh, size: int) -> slice | None:
    """Returns the rows of a global batch of `size` rows that this host's devices hold, None where they hold all."""
    return None if jax.process_count() == 1 else slice(*_rows(batch_sharding(mesh), size))


def _rows(sharding: NamedSharding, size: int) -> tuple[int, int]:
    held = sharding.addressable_devices_indices_map((size,)).values()
    pieces = [index[0].indices(size)[:2] for index in held if index is not None]
    return min(p[0] for p in pieces), max(p[1] for p in pieces)


def place(batch: Batch[np.ndarray], sharding: NamedSharding, size: int) -> Batch[jax.Array]:
    """Puts this host's rows `[b, …]` of a global batch of `size` rows on its devices."""
    first = 0 if jax.process_count() == 1 else _rows(sharding, size)[0]

    def one(local: np.ndarray) -> jax.Array:
        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(size)
            return local[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((size, *local.shape[1:]), sharding, rows)

    values: Mapping[str, object] = batch
    return jax.tree.map(one, {key: np.asarray(values[key]) for key in kinds(DistillBatch) if key in values})
