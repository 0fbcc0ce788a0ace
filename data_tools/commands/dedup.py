"""`jaxpt-data dedup`: drop what was said before, exactly or nearly, and tell what each drop repeats."""

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.dedup import bands, minhash, pipeline, units, verify
from data_tools.dedup.engine import ENGINES, open_engine
from data_tools.dedup.store import Layout
from data_tools.io import made, storage
from data_tools.io.batch import Outcome, Place, Removed, texts
from data_tools.io.outputs import check_outputs
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import tell_quarantine
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, inside

HELP = "drop exact and near duplicates: documents, paragraphs or lines"

EXAMPLE = """example:
  jaxpt-data dedup --input='clean/*.jsonl.gz' --output=dedup --strictness=balanced
  jaxpt-data dedup --input='old/*.jsonl.gz,new/*.jsonl.gz' --output=dedup-new --store=dedup/signatures"""

CLUSTERS = "clusters.parquet"
EXCERPT = 300  # characters shown of a removed text and of what it repeats


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data dedup", HELP, EXAMPLE)
    out.add_argument("--input", required=True, help="globs of JSONL (.gz, .zst) or Parquet files, comma-separated")
    out.add_argument("--output", required=True, help="folder: shards of the same names, removals, clusters.parquet")
    out.add_argument("--store", help="folder of signatures, kept for later dumps (OUTPUT/signatures)")
    out.add_argument("--unit", default="document", help=", ".join(units.UNITS))
    out.add_argument("--strictness", default="balanced", help=f"from certain to harsh: {', '.join(verify.LEVELS)}")
    out.add_argument("--survivor", default="longest", help="longest, newest, best or first")
    out.add_argument("--survivor_field", default="", help="field with the date (newest) or the score (best)")
    out.add_argument("--least_tokens", type=int, default=0, help="units with fewer are never compared")
    out.add_argument("--exact_only", action="store_true", help="no signatures, only equal texts")
    out.add_argument("--bands", type=int, default=14)
    out.add_argument("--rows", type=int, default=8)
    out.add_argument("--threshold", type=float, help="let datasketch choose bands and rows for this Jaccard")
    out.add_argument("--engine", default="native", help=", ".join(ENGINES))
    out.add_argument("--ray_address", help="cluster for --engine=ray")
    out.add_argument("--splits", type=int, default=1, help="passes over each band; more passes, less memory")
    out.add_argument("--workers", type=int, default=1, help="processes; 0: one per core")
    out.add_argument("--alarm", type=float, default=0.5, help="warn when a source loses more than this share")
    out.add_argument("--text_field", default="text")
    return out


def _layout(args: argparse.Namespace) -> Layout:
    layout = bands.Bands(args.bands, args.rows)
    scheme = minhash.Scheme(permutations=max(args.bands * args.rows, 1))
    if args.threshold is not None:
        scheme = minhash.Scheme()
        layout = bands.choose(args.threshold, scheme.permutations)
    choice = units.Choice(args.survivor, args.survivor_field)
    return Layout(args.unit, args.least_tokens, not args.exact_only, scheme, layout, choice)


def _names(result: pipeline.Result, shards: list[FileShard], wanted: np.ndarray) -> dict[int, dict]:
    """Reads id, source and beginning of the units (sorted) that others are said to repeat, about 1 KB each."""
    out: dict[int, dict] = {}
    with progress(len(wanted), "anchors", "text", scale=True) as bar:
        for shard, number in zip(shards, result.numbers):
            mine = wanted[wanted >> units.ROW_BITS == number]
            if not len(mine):
                continue
            where = result.store.places(number)
            at = np.searchsorted(where["unit"], mine)
            by_row: dict[int, list[tuple[int, int, int]]] = {}
            for unit, row, start, stop in zip(
                mine.tolist(), *(where[k][at].tolist() for k in ("row", "start", "stop"))
            ):
                by_row.setdefault(row, []).append((unit, start, stop))
            for row, fields in enumerate(shard.rows()):
                for unit, start, stop in by_row.get(row, ()):
                    excerpt = fields["text"][start : min(stop, start + EXCERPT)]
                    out[unit] = {"of_id": fields.get("id"), "of_source": fields.get("source"), "of_excerpt": excerpt}
            bar.update(len(mine))
    return out


@dataclass(frozen=True, eq=False)
class Drop:
    """The step: takes out the units of one run that repeat others, and tells what they repeat."""

    result: pipeline.Result
    names: dict[int, dict]
    numbers: dict[str, int]  # of the shards

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        by_row = self._parts(place, len(batch))
        everything = texts(batch) if by_row else []
        removed, changed = [], {}
        for row, parts in sorted(by_row.items()):
            text = everything[row]
            left = units.without(text, [(start, stop) for start, stop, _ in parts])
            whole = not left.strip()
            for start, stop, why in parts:
                seen = {name: why[name] for name in ("cluster", "anchor", "jaccard", "covered", "new_run")}
                detail = {
                    **seen,
                    **self.names.get(why["anchor"], {}),
                    "excerpt": text[start : min(stop, start + EXCERPT)],
                }
                last = (start, stop) == parts[-1][:2]
                removed.append(Removed(row, f"dedup-{why['rule']}", why["jaccard"], detail, whole and last))
            if not whole:
                changed[row] = left
        return Outcome.of(batch, removed, texts=changed)

    def _parts(self, place: Place, count: int) -> dict[int, list[tuple[int, int, dict]]]:
        """Returns start, stop and reason of what goes, by row of the batch."""
        number = self.numbers[place.shard]
        where, dropped = self._of_shard(number)
        low, high = np.searchsorted(where["row"], [place.row, place.row + count])
        out: dict[int, list[tuple[int, int, dict]]] = {}
        for unit, row, start, stop in zip(*(where[k][low:high].tolist() for k in ("unit", "row", "start", "stop"))):
            if unit in dropped:
                out.setdefault(row - place.row, []).append((start, stop, dropped[unit]))
        return out

    @lru_cache(maxsize=1)  # noqa: B019  (one instance per process)
    def _of_shard(self, number: int) -> tuple[Mapping[str, np.ndarray], dict[int, dict]]:
        return self.result.store.places(number), self.result.dropped(number)


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    check_outputs({"--input": args.input}, {"--output": args.output, "--store": args.store})
    shards = open_shards(args.input, args.text_field)
    if clash := next((s for s in shards if s.name == CLUSTERS), None):
        raise JaxptError(f"--input={args.input}: {clash.path} has the name of the table of clusters; rename it")
    layout = _layout(args)
    options = pipeline.Options(
        args.strictness, True, not args.exact_only, args.splits, args.workers or os.cpu_count() or 1
    )
    engine = open_engine(args.engine, args.ray_address)
    if not 0 < args.alarm <= 1:
        raise JaxptError(f"--alarm={args.alarm} must be a share in (0, 1]")
    if args.store is None and storage.is_remote(args.output):
        raise JaxptError(f"--output={args.output} is remote; name a local folder for the signatures by --store")
    with ExitStack() as stack:
        stack.enter_context(made.writing(args.output, "dedup"))
        if args.store is not None:
            stack.enter_context(Lock(inside(Path(args.store)), args.store, "--store").acquire())
        return _dedup(args, shards, layout, engine, options)


def _dedup(
    args: argparse.Namespace, shards: list[FileShard], layout: Layout, engine: Any, options: pipeline.Options
) -> int:
    store_path = args.store or str(Path(args.output) / "signatures")
    result = pipeline.run(shards, store_path, layout, engine, options)
    run_number = max(s["run"] for s in result.store.shards)
    new = [s for s, n in zip(shards, result.numbers) if result.store.shards[n]["run"] == run_number]
    numbers = {s.name: n for s, n in zip(shards, result.numbers)}
    drops = result.clusters.filter(pc.not_equal(result.clusters["rule"], "kept"))
    names = _names(result, shards, np.unique(drops["anchor"].to_numpy()))
    settings = {"layout": asdict(layout), "strictness": args.strictness, "inputs": [s.fingerprint for s in shards]}
    manifests = run_shards(
        new,
        args.output,
        {**settings, "store": result.store.shards},
        Drop(result, names, numbers),
        "write",
        workers=args.workers,
    )
    with storage.new_file(storage.join(args.output, CLUSTERS)) as file:
        pq.write_table(result.clusters, file)
    _report(args, manifests, result.counts)
    tell_quarantine(manifests, args.output, args.text_field)
    return 0


def _report(args: argparse.Namespace, manifests: list[dict], counts: dict) -> None:
    rows, alarms = [], []
    for m in manifests:
        lost = 1 - m["kept"] / max(m["rows"], 1)
        parts = [m["removed"].get(rule, 0) + m["cut"].get(rule, 0) for rule in ("dedup-exact", "dedup-near")]
        rows.append((m["name"], m["rows"], m["kept"], *parts))
        if lost > args.alarm:
            alarms.append(f"warning: {m['name']} lost {lost:.0%} of its documents (alarm at {args.alarm:.0%})")
    print(table(["shard", "documents", "kept", f"exact {args.unit}s", f"near {args.unit}s"], rows))
    print(*alarms, sep="\n", end="\n" if alarms else "")
    storage.write_json(
        storage.join(args.output, "dedup.json"), {"counts": counts, "shards": manifests, "alarms": alarms}
    )
    print(json.dumps(counts))
