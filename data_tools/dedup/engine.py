"""The global steps of deduplication on Daft: the one module that knows Daft's names (written against 0.7)."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from data_tools.dedup.oracle import NumpyEngine, edge_table
from jaxpt.cli.ray_cluster import RAY_TELEMETRY_OFF, connect
from jaxpt.errors import JaxptError, nearest

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",  # Daft reports each import and each run unless told not to, and so it does on Ray's workers
    "DAFT_ANALYTICS_ENABLED": "0",
    "SCARF_NO_ANALYTICS": "true",
    **RAY_TELEMETRY_OFF,
}


class DaftEngine:
    """The steps of `NumpyEngine` as Daft plans, on threads of this process or on a Ray cluster; same results."""

    def __init__(self, runner: str = "native", address: str | None = None):
        """Starts Daft with telemetry off.

        Args:
            runner: "native" or "ray".
            address: the Ray cluster to connect to; None starts or finds a local one.

        Raises:
            JaxptError: Daft (or Ray) is not installed, or this process already runs Daft on another runner.
        """
        os.environ.update(TELEMETRY_OFF)
        os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
        try:
            import daft
        except ImportError as error:
            raise JaxptError(f"engine {runner!r} needs {error.name}; install it or use --engine=numpy") from error
        self.name = runner
        self._daft = daft
        if runner == "ray":
            connect(address, TELEMETRY_OFF, "install it or use --engine=numpy")
        try:
            if runner == "ray":
                daft.set_runner_ray(noop_if_initialized=True)
            else:
                daft.set_runner_native()
        except Exception as error:  # Daft's own class: a process sets its runner once
            if daft.runners.get_or_infer_runner_type() != runner:
                raise JaxptError(f"engine {runner!r}: {error}; one process can use one Daft runner") from error

    def _read(self, paths: Sequence[str], column: str, split: int, splits: int) -> Any:
        frame = self._daft.read_parquet(list(paths))
        return frame if splits == 1 else frame.where(self._daft.col(column) % splits == split)

    def star_edges(self, paths: Sequence[str], key: str, split: int = 0, splits: int = 1) -> pa.Table:
        """See `NumpyEngine.star_edges`."""
        if not paths:
            return edge_table([], [])
        col = self._daft.col
        rows = self._read(paths, key, split, splits).select(col("unit"), col(key).alias("key"))
        groups = rows.groupby("key").agg(col("unit").min().alias("left"), col("unit").count().alias("size"))
        pairs = rows.join(groups.where(col("size") > 1), on="key").where(col("left") != col("unit"))
        return _sorted_edges(pairs.select(col("left"), col("unit").alias("right")).distinct().to_arrow())

    def repeats(self, paths: Sequence[str], split: int = 0, splits: int = 1) -> pa.Table:
        """See `NumpyEngine.repeats`."""
        col = self._daft.col
        rows = self._read(paths, "low", split, splits).select("unit", "high", "low", "order")
        size = rows.groupby("high", "low").agg(col("order").min().alias("least"), col("unit").count().alias("size"))
        many = rows.join(size.where(col("size") > 1), on=["high", "low"])
        best = many.where(col("order") == col("least")).groupby("high", "low").agg(col("unit").min().alias("first"))
        pairs = many.join(best, on=["high", "low"]).where(col("unit") != col("first")).select("unit", "first")
        return _plain(pairs.to_arrow()).sort_by("unit")

    def union(self, tables: Sequence[pa.Table]) -> pa.Table:
        """See `NumpyEngine.union`."""
        if not tables:
            return edge_table([], [])
        return _sorted_edges(self._daft.from_arrow(pa.concat_tables(tables)).distinct().to_arrow())

    def components(self, edges: pa.Table) -> pa.Table:
        """See `NumpyEngine.components`; alternates large-star and small-star (Kiveris et al. 2014)."""
        col = self._daft.col
        if not len(edges):
            return pa.table({"unit": pa.array([], pa.int64()), "label": pa.array([], pa.int64())})
        now = self._daft.from_arrow(edges.select(["left", "right"])).collect()
        while True:
            flipped = now.select(col("right").alias("left"), col("left").alias("right"))
            both = now.union_all(flipped)
            itself = both.select(col("left"), col("left").alias("right"))
            least = both.union_all(itself).groupby("left").agg(col("right").min().alias("least"))
            larger = both.where(col("right") > col("left")).join(least, on="left")
            large = larger.select(col("least").alias("left"), col("right")).distinct()
            root = large.groupby("right").agg(col("left").min().alias("least"))
            moved = large.join(root, on="right").where(col("left") != col("least"))
            moved = moved.select(col("least").alias("left"), col("left").alias("right"))
            now = moved.union_all(root.select(col("least").alias("left"), col("right"))).distinct().collect()
            chained = now.join(now.select(col("left").alias("right")), on="right", how="semi").count_rows()
            if chained == 0 and now.select("right").distinct().count_rows() == now.count_rows():
                break  # every unit hangs on one root, and no root hangs on another
        labelled = _plain(now.select(col("right").alias("unit"), col("left").alias("label")).to_arrow())
        roots = pa.array(sorted(set(labelled["label"].to_pylist())), pa.int64())
        return pa.concat_tables([labelled, pa.table({"unit": roots, "label": roots})]).sort_by("unit")

    def anti_join(self, units: pa.Table, dropped: pa.Table) -> pa.Table:
        """See `NumpyEngine.anti_join`."""
        left, right = self._daft.from_arrow(units.select(["unit"])), self._daft.from_arrow(dropped.select(["unit"]))
        return _plain(left.join(right, on="unit", how="anti").to_arrow()).sort_by("unit")


def _plain(table: pa.Table) -> pa.Table:
    return pa.table({name: table[name].combine_chunks().cast(pa.int64()) for name in table.column_names})


def _sorted_edges(table: pa.Table) -> pa.Table:
    return _plain(table).sort_by([("left", "ascending"), ("right", "ascending")])


Engine = NumpyEngine | DaftEngine
ENGINES: dict[str, Callable[[str | None], Engine]] = {
    "numpy": lambda address: NumpyEngine(),
    "native": lambda address: DaftEngine("native"),
    "ray": lambda address: DaftEngine("ray", address),
}


def open_engine(name: str = "native", address: str | None = None) -> Engine:
    """Returns the engine of that name: native (Daft in this process), ray (Daft on a cluster) or numpy (the oracle).

    Raises:
        JaxptError: an unknown name, or the engine's package is missing.
    """
    if name not in ENGINES:
        raise JaxptError(f"--engine={name} is unknown{nearest(name, ENGINES)}; known: {', '.join(ENGINES)}")
    return ENGINES[name](address)
