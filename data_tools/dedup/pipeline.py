"""Deduplicate shards: sign, find candidates, verify, decide. Writing what is kept is left to the caller."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.dedup import verify
from data_tools.dedup.engine import Engine
from data_tools.dedup.store import SignatureLayout, Store, candidate_tokens
from data_tools.dedup.units import ROW_BITS, Shard
from data_tools.shards.workers import end_with_parent
from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError

EVIDENCE = ("jaccard", "covered", "new_run")


@dataclass(frozen=True)
class DedupOptions:
    """Options of a deduplication."""

    strictness: str = "balanced"
    exact: bool = True
    near: bool = True
    splits: int = 1  # passes over each band; more passes, less memory
    workers: int = 1
    signature_path: str = "auto"

    def check(self) -> None:
        """Raises JaxptError for settings that cannot work."""
        verify.level(self.strictness)
        if self.splits < 1 or self.workers < 1 or not (self.exact or self.near):
            raise JaxptError(f"dedup: splits={self.splits}, workers={self.workers} must be >= 1, and exact or near on")


def memory_bound(
    units: int, candidates: int, largest_shard: int, largest_cluster: int = 0, permutations: int = 112, splits: int = 1
) -> int:
    """Returns an upper estimate of the working memory in bytes, beyond 600 MB for Python and the engine.

    The largest of: signing one shard (the signatures twice and 350 bytes per unit, per worker); one band of all units
    in one split (16 bytes a row, six copies while grouping); the edges and components of the candidates, then their
    verdicts (800 bytes each; the signatures and band keys of the largest cluster). `benchmarks.dedup` checks it.
    """
    sign = largest_shard * (8 * permutations + 350)
    band = units * 96 // splits
    return max(sign, band, candidates * 800 + largest_cluster * 12 * permutations)


@dataclass(frozen=True)
class Result:
    """What was decided.

    `clusters`: a row per unit that had a candidate or an equal: `unit, cluster, anchor, rule` ("exact", "near" or
    "kept"), `jaccard, covered, new_run` (null where nothing was compared), sorted by unit. `anchor` is always a kept
    unit, the unit itself where it is kept.
    """

    store: Store
    numbers: list[int]  # of the input shards, in input order
    clusters: pa.Table
    counts: dict[str, int]

    def dropped(self, number: int) -> dict[int, dict]:
        """Returns the rows of `clusters` that drop a unit of this shard, by unit."""
        units = self.clusters["unit"].to_numpy()
        low, high = np.searchsorted(units, [number << ROW_BITS, (number + 1) << ROW_BITS])
        return {r["unit"]: r for r in self.clusters.slice(low, high - low).to_pylist() if r["rule"] != "kept"}


def _each(jobs: Sequence[tuple], function: Callable, workers: int, what: str) -> list:
    """Calls `function(*job)` for every job, in order of results, with a progress bar."""
    with progress(len(jobs), what, "shard") as bar:
        if workers == 1 or len(jobs) < 2:
            out = []
            for job in jobs:
                out.append(function(*job))
                bar.update()
            return out
        with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), end_with_parent) as pool:
            futures = [pool.submit(function, *job) for job in jobs]
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            return [future.result() for future in futures]


def _sign(path: str, layout: SignatureLayout, shard: Shard, number: int, signature_path: str) -> dict:
    return Store(path, layout).sign(shard, number, signature_path)


def _tokens(
    path: str, layout: SignatureLayout, shard: Shard, number: int, units: np.ndarray, signature_path: str, out: str
) -> tuple[np.ndarray, np.ndarray]:
    tokens = candidate_tokens(shard, Store(path, layout), number, units, signature_path)
    np.save(out, tokens.values)
    return units, tokens.offsets


def run(
    shards: Sequence[Shard], store_path: str | Path, layout: SignatureLayout, engine: Engine, options: DedupOptions
) -> Result:
    """Decides which units of `shards` are dropped.

    Args:
        shards: the inputs. Shards that the store already holds are not read again, unless a unit of theirs has to be
            compared with a new one; those from earlier runs keep what those runs kept.
        store_path: folder of the signature store, made if absent.
        layout: what is compared.
        engine: from `engine.open_engine`.
        options: strictness and resources; neither workers nor splits nor the engine changes the result.

    Raises:
        JaxptError: settings that cannot work, or a unit to compare with whose shard was not given.
    """
    options.check()
    store = Store(store_path, layout)
    numbers = store.enrol(shards)
    run_number = max((s["run"] for s in store.shards), default=0)
    jobs = [
        (str(store.path), layout, s, n, options.signature_path) for s, n in zip(shards, numbers) if not store.done(n)
    ]
    _each(jobs, _sign, options.workers, "sign")
    before = store.dropped_before(run_number)
    exact = _exact(store, engine, options, run_number, before)
    near = _near(store, engine, options, exact, before, dict(zip(numbers, shards)), run_number)
    clusters = _resolve(exact, near, before)
    drops = clusters.filter(pc.not_equal(clusters["rule"], "kept"))
    store.finish(run_number, drops.select(["unit", "anchor"]).rename_columns(["unit", "first"]))
    sizes = np.unique(near["cluster"].to_numpy(), return_counts=True)[1]
    counts = {
        "exact": pc.sum(pc.equal(drops["rule"], "exact")).as_py() or 0,
        "near": pc.sum(pc.equal(drops["rule"], "near")).as_py() or 0,
        "candidates": len(near),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max(initial=0)),
    }
    return Result(store, numbers, clusters, counts)


def _exact(store: Store, engine: Engine, options: DedupOptions, run_number: int, before: pa.Table) -> pa.Table:
    """New units equal to a preferred one: `(unit, first)`."""
    paths = store.paths("units")
    if not options.exact or not paths:
        return before.slice(0, 0)
    parts = [engine.repeats(paths, split, options.splits) for split in range(options.splits)]
    labelled = pa.concat_tables(parts).sort_by("unit")
    return labelled.filter(store.run_of(labelled["unit"].to_numpy()) == run_number)


def _candidates(store: Store, engine: Engine, options: DedupOptions, gone: pa.Table, run_number: int) -> pa.Table:
    """Clusters `(unit, label)` of two or more units of which at least one is new, without the units of `gone`."""
    paths = store.paths("bands")
    edges: list[pa.Table] = []
    with progress(store.layout.bands.bands * options.splits, "bands", "pass") as bar:
        for band in range(store.layout.bands.bands):
            for split in range(options.splits):
                edges = [engine.union([*edges, engine.star_edges(paths, f"b{band}", split, options.splits)])]
                bar.update()
    components = engine.components(edges[0])
    units = engine.anti_join(components, gone)["unit"].to_numpy()
    labels = components["label"].to_numpy()[np.searchsorted(components["unit"].to_numpy(), units)]
    names, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    fresh = np.bincount(inverse, store.run_of(units) == run_number, minlength=len(names)) > 0
    keep = ((sizes > 1) & fresh)[inverse]
    return pa.table({"unit": units[keep], "label": labels[keep]})


def _near(
    store: Store,
    engine: Engine,
    options: DedupOptions,
    exact: pa.Table,
    before: pa.Table,
    shards: dict[int, Shard],
    run_number: int,
) -> pa.Table:
    """Judges every cluster of candidates: a row per candidate."""
    gone = pa.concat_tables([exact.select(["unit"]), before.select(["unit"])])
    ready = options.near and store.layout.near and store.paths("bands")
    labelled = (
        _candidates(store, engine, options, gone, run_number) if ready else pa.table({"unit": pa.array([], pa.int64())})
    )
    if not len(labelled):
        return _verdicts(0)
    units = labelled["unit"].to_numpy()
    by_shard = {int(n): np.sort(units[units >> ROW_BITS == n]) for n in np.unique(units >> ROW_BITS)}
    absent = [n for n in by_shard if n not in shards]
    if absent:
        name = store.shards[absent[0]]["name"]
        raise JaxptError(f"shard {name!r} of an earlier run holds texts to compare with; add it to --input")
    folder = store.path / "candidates"
    folder.mkdir(exist_ok=True)
    jobs = [
        (str(store.path), store.layout, shards[n], n, mine, options.signature_path, str(folder / f"{n}.npy"))
        for n, mine in by_shard.items()
    ]
    read = _each(jobs, _tokens, options.workers, "read")
    offsets = dict(zip(by_shard, read))
    verdicts = _judge_all(store, labelled, offsets, options, run_number)
    for n in by_shard:
        (folder / f"{n}.npy").unlink()
    return verdicts


def _verdicts(count: int, columns: dict[str, np.ndarray] | None = None) -> pa.Table:
    """A table of verdicts; evidence below 0 means that nothing was compared."""
    columns = columns or {name: np.zeros(count) for name in ("unit", "cluster", "anchor", *EVIDENCE)}
    kinds = {**dict.fromkeys(("unit", "cluster", "anchor", "new_run"), pa.int64())}
    bare = columns["jaccard"] < 0
    arrays = {
        name: pa.array(column, kinds.get(name, pa.float64()), mask=bare if name in EVIDENCE else None)
        for name, column in columns.items()
    }
    return pa.table(arrays)


def _judge_all(store: Store, components: pa.Table, offsets: dict, options: DedupOptions, run_number: int) -> pa.Table:
    """Runs `verify.judge` over all clusters, reading tokens and signatures through memory maps."""
    units, labels = components["unit"].to_numpy(), components["label"].to_numpy()
    order = _orders(store, units)
    sort = np.lexsort((units, order, labels))
    units, labels = units[sort], labels[sort]
    tokens = {n: np.load(store.path / "candidates" / f"{n}.npy", mmap_mode="r") for n in offsets}
    signatures = {n: store.signatures(n) for n in offsets}
    level = verify.level(options.strictness)

    def profile(unit: int) -> verify.Profile:
        mine, cuts = offsets[unit >> ROW_BITS]
        i = int(np.searchsorted(mine, unit))
        return verify.Profile(np.asarray(tokens[unit >> ROW_BITS][cuts[i] : cuts[i + 1]]))

    whole = {name: np.empty(len(units), np.int64) for name in ("unit", "cluster", "anchor", "new_run")}
    out = {**whole, **{name: np.full(len(units), -1.0) for name in ("jaccard", "covered")}}
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)]])
    with progress(len(units), "verify", "text", scale=True) as bar:
        for start, stop in pairwise(cuts):
            group = units[start:stop].tolist()
            table = np.stack([signatures[u >> ROW_BITS][u & (1 << ROW_BITS) - 1] for u in group])
            settled = int((store.run_of(units[start:stop]) < run_number).sum())
            verdicts = verify.judge(
                group, table, lambda i, g=group: profile(g[i]), level, store.layout.bands, settled=settled
            )
            for at, verdict in enumerate(verdicts, start):
                out["unit"][at], out["cluster"][at], out["anchor"][at] = verdict.unit, group[0], verdict.anchor
                if seen := verdict.evidence:
                    out["jaccard"][at], out["covered"][at], out["new_run"][at] = (
                        seen.jaccard,
                        seen.covered,
                        seen.new_run,
                    )
            bar.update(int(stop - start))
    return _verdicts(len(units), {name: out[name] for name in ("unit", "cluster", "anchor", *EVIDENCE)})


def _orders(store: Store, units: np.ndarray) -> np.ndarray:
    """Returns the stored order of preference `[n]` of units."""
    out = np.empty(len(units), dtype=np.int64)
    for number in np.unique(units >> ROW_BITS):
        table = pq.read_table(store.path / "units" / f"{number}.parquet", columns=["unit", "order"])
        mine = units >> ROW_BITS == number
        out[mine] = table["order"].to_numpy()[np.searchsorted(table["unit"].to_numpy(), units[mine])]
    return out


def _resolve(exact: pa.Table, near: pa.Table, before: pa.Table) -> pa.Table:
    """Joins both kinds of drops; an exact copy of a text that was dropped in turn gets that text's anchor."""
    unit, first = exact["unit"].to_numpy(), exact["first"].to_numpy()
    judged, clusters, anchors = (near[name].to_numpy() for name in ("unit", "cluster", "anchor"))
    gone, stand_ins = before["unit"].to_numpy(), before["first"].to_numpy()
    copies = pa.table(
        {
            "unit": unit,
            "cluster": _map(first, judged, clusters),
            "anchor": _map(_map(first, gone, stand_ins), judged, anchors),
            "rule": pa.array(np.full(len(unit), "exact"), pa.string()),
            "jaccard": np.ones(len(unit)),
            "covered": np.ones(len(unit)),
            "new_run": np.zeros(len(unit), np.int64),
        }
    )
    rule = np.where(anchors == judged, "kept", "near")
    near = near.add_column(3, "rule", pa.array(rule, pa.string()))
    alone = np.setdiff1d(first, np.concatenate([judged, gone]))  # kept, with exact copies and nothing like them
    nulls = [pa.nulls(len(alone), near[name].type) for name in EVIDENCE]
    heads = pa.table([alone, alone, alone, pa.array(np.full(len(alone), "kept"), pa.string()), *nulls], near.schema)
    return pa.concat_tables([copies, near, heads]).sort_by("unit").combine_chunks()


def _map(values: np.ndarray, keys: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns `values` with each one that is among `keys` replaced by its target."""
    if not len(keys):
        return values
    sort = np.argsort(keys)
    at = sort[np.minimum(np.searchsorted(keys, values, sorter=sort), len(keys) - 1)]
    return np.where(keys[at] == values, targets[at], values)
