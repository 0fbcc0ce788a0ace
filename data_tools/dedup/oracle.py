"""The global steps of deduplication in numpy and pyarrow: small, sequential, and what the Daft engine must equal."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike


def edge_table(left: ArrayLike, right: ArrayLike) -> pa.Table:
    """Returns the distinct pairs with left < right as a table `(left, right)` sorted by both, int64."""
    pairs = np.stack([np.asarray(left, np.int64), np.asarray(right, np.int64)], axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    return pa.table({"left": pairs[:, 0], "right": pairs[:, 1]})


def _group_first(values: np.ndarray, by: Sequence[np.ndarray], key: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Sorts by `key`, then by `by`; returns the sorted `values` and, beside each, the first value of its group."""
    order = np.lexsort([*reversed(by), *reversed(key)])
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for column in key:
        new[1:] |= column[order][1:] != column[order][:-1]
    first = values[order][np.flatnonzero(new)]
    return values[order], first[np.cumsum(new) - 1]


class NumpyEngine:
    """Global steps in this process; every method's result is what `DaftEngine` returns too."""

    name = "numpy"

    def star_edges(self, paths: Sequence[str], key: str, split: int = 0, splits: int = 1) -> pa.Table:
        """Joins every unit to the smallest unit of its bucket.

        Args:
            paths: parquet files with columns `unit` (int64) and `key` (uint64).
            key: name of the key column, one band.
            split: takes only the keys with `key % splits == split`, which bounds memory.
            splits: number of splits.

        Returns:
            Distinct edges `(left, right)`, left < right, sorted.
        """
        table = pq.read_table(list(paths), columns=["unit", key]) if paths else None
        if table is None or not len(table):
            return edge_table(np.zeros(0), np.zeros(0))
        units, keys = table["unit"].to_numpy(), table[key].to_numpy()
        take = keys % np.uint64(splits) == np.uint64(split)
        units, first = _group_first(units[take], [units[take]], [keys[take]])
        return edge_table(first, units)

    def repeats(self, paths: Sequence[str], split: int = 0, splits: int = 1) -> pa.Table:
        """Finds units that repeat an earlier one exactly.

        Args:
            paths: parquet files with columns `unit` (int64), `high`, `low` (uint64: a 128-bit hash), `order` (int64:
                smaller is preferred; ties go to the smaller unit).
            split: takes only keys with `low % splits == split`.
            splits: number of splits.

        Returns:
            `(unit, first)` for every unit that is not the preferred one of its key, sorted by unit.
        """
        table = pq.read_table(list(paths), columns=["unit", "high", "low", "order"])
        columns = [table[name].to_numpy() for name in ("unit", "high", "low", "order")]
        take = columns[2] % np.uint64(splits) == np.uint64(split)
        unit, high, low, order = (column[take] for column in columns)
        unit, first = _group_first(unit, [order, unit], [high, low])
        sort = np.argsort(unit)
        unit, first = unit[sort], first[sort]
        return pa.table({"unit": unit[unit != first], "first": first[unit != first]})

    def union(self, tables: Sequence[pa.Table]) -> pa.Table:
        """Returns the distinct edges of several edge tables."""
        left = np.concatenate([t["left"].to_numpy() for t in tables] or [np.zeros(0)])
        return edge_table(left, np.concatenate([t["right"].to_numpy() for t in tables] or [np.zeros(0)]))

    def components(self, edges: pa.Table) -> pa.Table:
        """Labels the connected components: `(unit, label)` for every unit with an edge, label = smallest unit.

        Memory: about 48 bytes per edge and 24 per unit.
        """
        units, flat = np.unique(
            np.concatenate([edges["left"].to_numpy(), edges["right"].to_numpy()]).astype(np.int64), return_inverse=True
        )
        left, right = flat[: len(edges)], flat[len(edges) :]
        parent = np.arange(len(units))
        while True:
            a, b = parent[left], parent[right]
            if (a == b).all():
                break
            np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))  # hook the larger root below the smaller
            while not (parent == parent[parent]).all():
                parent = parent[parent]
        return pa.table({"unit": units, "label": units[parent]})

    def anti_join(self, units: pa.Table, dropped: pa.Table) -> pa.Table:
        """Returns the rows of `units (unit)` that are not in `dropped (unit)`, sorted by unit."""
        kept = np.setdiff1d(units["unit"].to_numpy(), dropped["unit"].to_numpy())
        return pa.table({"unit": kept.astype(np.int64)})
