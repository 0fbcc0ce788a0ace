"""`jaxpt-data dedup`: drop exact and near duplicates, and say what each one repeats."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.dedup import bands, minhash, pipeline, units, verify
from data_tools.dedup.engine import ENGINES, Engine, open_engine
from data_tools.dedup.store import SignatureLayout, names_in
from data_tools.io import ownership, storage
from data_tools.io.batch import Outcome, Place, Removed, texts
from data_tools.io.outputs import check_outputs
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.alarms import Loss, warnings
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, inside

EXAMPLE = """example:
  jaxpt-data dedup --input=clean --output=dedup --strictness=balanced
  jaxpt-data dedup --input='clean/*.jsonl.gz,new/*.jsonl.gz' --output=dedup-new --store=dedup/signatures"""

CLUSTERS = "clusters.parquet"
EXCERPT = 300  # characters shown of a removed text and of what it repeats


def _describe(result: pipeline.Result, shards: Sequence[FileShard], wanted: np.ndarray) -> dict[int, dict[str, Any]]:
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
    """The batch step: takes out the units of one run that repeat others, and says what they repeat."""

    result: pipeline.Result
    names: Mapping[int, Mapping[str, Any]]  # id, source and beginning of what is repeated, by unit
    numbers: Mapping[str, int]  # of the shards

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


@dataclass(frozen=True)
class Dedup(DocumentStep):
    """Drop exact and near duplicates: documents, paragraphs or lines."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="globs of JSONL (.gz, .zst) or Parquet files, comma-separated")
    output: str = option(doc="folder: shards of the same names, removals, clusters.parquet")
    store: str | None = option(None, "folder of signatures, kept for later dumps (OUTPUT/signatures)")
    unit: str = option("document", ", ".join(units.UNITS))
    strictness: str = option("balanced", f"from certain to harsh: {', '.join(verify.LEVELS)}")
    survivor: str = option(
        "quality", "quality (best score where there is one, else longest), longest, newest, best, first"
    )
    survivor_field: str = option("", "field with the date (newest) or the score (best; quality: class_score)")
    least_tokens: int = option(0, "units with fewer are never compared")
    exact_only: bool = option(False, "no signatures, only equal texts")
    bands: int = option(14, "of the signatures: texts that share one are compared")
    rows: int = option(8, "of a band")
    threshold: float | None = option(None, "let datasketch choose bands and rows for this Jaccard")
    engine: str = option("native", ", ".join(ENGINES))
    ray_address: str | None = option(None, "cluster for --engine=ray")
    splits: int = option(1, "passes over each band; more passes, less memory")
    workers: int = option(1, "processes; 0: one per core", changes_output=False)
    alarm: float = option(0.5, "warn when a source loses more than this share", changes_output=False)
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    text_field: str = option("text", "of records: where the text is")

    def run(self) -> None:
        """Signs, compares, decides, then writes shard after shard; what is done of it is not done again."""
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input}, {"--output": self.output, "--store": self.store})
        known = names_in(self.store or Path(self.output) / "signatures")
        shards = open_shards(self.input, self.text_field, self.output, known, self.caps)
        if clash := next((s for s in shards if s.name == CLUSTERS), None):
            raise JaxptError(f"--input={self.input}: {clash.path} has the name of the table of clusters; rename it")
        layout = self._layout()
        workers = self.workers or os.cpu_count() or 1
        options = pipeline.DedupOptions(self.strictness, True, not self.exact_only, self.splits, workers)
        engine = open_engine(self.engine, self.ray_address)
        if not 0 < self.alarm <= 1:
            raise JaxptError(f"--alarm={self.alarm} must be a share in (0, 1]")
        if self.store is None and storage.is_remote(self.output):
            raise JaxptError(f"--output={self.output} is remote; name a local folder for the signatures by --store")
        with ExitStack() as stack:
            stack.enter_context(ownership.writing(self.output, "dedup"))
            if self.store is not None:
                stack.enter_context(Lock(inside(Path(self.store)), self.store, "--store").acquire())
            self._write(shards, layout, engine, options)

    def _layout(self) -> SignatureLayout:
        cut = bands.Bands(self.bands, self.rows)
        scheme = minhash.Scheme(permutations=max(self.bands * self.rows, 1))
        if self.threshold is not None:
            scheme = minhash.Scheme()
            cut = bands.choose(self.threshold, scheme.permutations)
        rule = units.SurvivorRule(self.survivor, self.survivor_field)
        return SignatureLayout(self.unit, self.least_tokens, not self.exact_only, scheme, cut, rule)

    def _write(
        self, shards: Sequence[FileShard], layout: SignatureLayout, engine: Engine, options: pipeline.DedupOptions
    ) -> None:
        store_path = self.store or str(Path(self.output) / "signatures")
        result = pipeline.run(shards, store_path, layout, engine, options)
        run_number = max(s["run"] for s in result.store.shards)
        new = [s for s, n in zip(shards, result.numbers) if result.store.shards[n]["run"] == run_number]
        numbers = {s.name: n for s, n in zip(shards, result.numbers)}
        drops = result.clusters.filter(pc.not_equal(result.clusters["rule"], "kept"))
        step = Drop(result, _describe(result, shards, np.unique(drops["anchor"].to_numpy())), numbers)
        inputs = [s.fingerprint for s in shards]
        settings = {"layout": asdict(layout), "strictness": self.strictness, "inputs": inputs}
        settings["store"] = result.store.shards
        manifests = run_shards(new, self.output, settings, step, "write", workers=self.workers)
        with storage.new_file(storage.join(self.output, CLUSTERS)) as file:
            pq.write_table(result.clusters, file)
        self._report(manifests, result.counts)
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)

    def _report(self, manifests: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> None:
        rows, losses = [], []
        for m in manifests:
            lost = 1 - m["kept"] / max(m["rows"], 1)
            line = f"warning: {m['name']} lost {lost:.0%} of its documents (alarm at {self.alarm:.0%})"
            losses.append(Loss(m["name"], m["rows"], m["kept"], lost, line))
            parts = [m["removed"].get(rule, 0) + m["cut"].get(rule, 0) for rule in ("dedup-exact", "dedup-near")]
            rows.append((m["name"], m["rows"], m["kept"], *parts, m["quarantined"]))
        alarms = warnings(losses, self.alarm)
        print(table(["shard", "documents", "kept", f"exact {self.unit}s", f"near {self.unit}s", "in quarantine"], rows))
        print(*alarms, sep="\n", end="\n" if alarms else "")
        report = {"counts": counts, "shards": manifests, "alarms": alarms}
        storage.write_json(storage.join(self.output, "dedup.json"), report)
        print(json.dumps(counts))


HELP = Dedup.summary()
main = Dedup.main
