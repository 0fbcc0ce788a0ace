"""Run a record-wise step over shards: nothing is lost silently, nothing is done twice, nothing is half-written.

Each input shard gives an output shard of the same name, `removals/NAME.jsonl` (one line per removal: rule, value,
example), `quarantine/NAME.jsonl` (lines that are not records, with their place) and, last, `manifests/NAME.json`.
"""

import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from data_tools.io import storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, check, strings, texts
from data_tools.io.readers import (
    SUFFIXES,
    BytesRead,
    Problem,
    kind_of,
    name_before,
    output_name,
    read,
    read_batches,
)
from data_tools.io.writers import BatchWriter, LinesWriter
from data_tools.shards.counts import Counts
from data_tools.shards.workers import end_with_parent
from jaxpt.cli.terminal import progress
from jaxpt.data.caps import RAW, Caps
from jaxpt.data.text_files import list_files
from jaxpt.errors import JaxptError
from jaxpt.files.partial import sha256

SMALL = 8 << 20  # bytes of input: fewer are done before further processes have started
FORMAT = 3  # of the manifests and of how text is read; a change makes every shard be done again
READ_ANEW = {"warc": b"2"}  # kinds of which more is read than once: what was made of them before is not done
BatchStep = Callable[[pa.RecordBatch, Place], Outcome]  # a pure function
Tick = Callable[[int, int], None]  # (bytes of input, documents) since the last call


@dataclass(frozen=True)
class FileShard:
    """One input file; the field that holds the text is given as `text` whatever its name is."""

    path: str
    name: str  # of the output
    fingerprint: str  # SHA-256 of the file, and of how its kind is read where that has changed
    field: str = "text"
    size: int = 0  # bytes of the file
    caps: Caps = RAW  # what a record may take

    def records(self) -> Iterator[dict | Problem]:
        """Yields records and problems in file order.

        Raises:
            JaxptError: the file is damaged as a whole, e.g. a truncated archive.
        """
        for entry in read(self.path, self.field, BytesRead(), self.caps):
            yield entry if isinstance(entry, Problem) else entry[1]

    def rows(self) -> Iterator[dict]:
        """Yields the valid records."""
        for row in self.records():
            if not isinstance(row, Problem):
                yield row if self.field == "text" else {**row, "text": row[self.field]}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields the valid records as batches, the same ones that `run_shards` gives to a step."""
        for batch, _ in read_batches(self.path, self.field, BytesRead(), self.caps):
            if not isinstance(batch, Problem):
                yield batch


def open_shards(
    pattern: str,
    field: str = "text",
    output: str | Path | None = None,
    known: Collection[str] = (),
    caps: Caps = RAW,
) -> list[FileShard]:
    """Returns the files that match `pattern` (comma-separated files, folders or globs, local or remote), by name.

    Args:
        pattern: which files.
        field: holds the text.
        output: folder that a step writes; shards that an earlier version wrote there, as gz, keep their names.
        known: further names that stay as they are.
        caps: what a record may take; one beyond them goes to quarantine.

    Raises:
        JaxptError: nothing matches, an unknown kind of file, or two files of one name.
    """
    paths = sorted({path for part in pattern.split(",") for path in list_files(part.strip(), SUFFIXES)})
    shards = []
    sizes = [_size(path) for path in paths]
    with progress(sum(sizes), "fingerprint", "B", scale=True, quiet=sum(sizes) < 1 << 30) as bar:
        for path, size in zip(paths, sizes):
            digest = hashlib.sha256()
            with fsspec.open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    bar.update(len(block))
            _check_as_written(path, digest.hexdigest())
            digest.update(READ_ANEW.get(kind_of(path), b""))
            digest.update(_changed(caps))
            shards.append(FileShard(path, output_name(path), digest.hexdigest(), field, size, caps))
    before = {*known, *(_written(output) if output is not None else ())}
    names = [s.name for s in shards]
    shards = [_named(s, before, names.count(s.name) > 1) for s in shards]
    names = [s.name for s in shards]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise JaxptError(f"--input={pattern}: two files are called {twice[0]!r}; outputs take the inputs' names")
    return sorted(shards, key=lambda s: s.name)


def _changed(caps: Caps) -> bytes:
    """Returns what of caps enters a fingerprint: nothing of those that have always held."""
    changed = caps.changed_from(RAW)
    record = changed.pop("largest_record", "")
    return f"{record}{json.dumps(changed) if changed else ''}".encode()


def _written(output: str | Path) -> set[str]:
    """Returns the names of shards that a step wrote into a folder, whole or, before it was killed, in part."""
    notes = storage.list_names(storage.join(output, "manifests"), ".json")
    removed = storage.list_names(storage.join(output, "removals"), ".jsonl")
    names = (n.removesuffix(".json") for n in notes), (n.removesuffix(".jsonl") for n in removed)
    return {*storage.list_names(output), *names[0], *names[1]}


def _named(shard: FileShard, before: Collection[str], twice: bool) -> FileShard:
    """Returns a shard under the name it had before, where that is in use, or where it is a gz beside a zst."""
    old = name_before(shard.name)
    beside = twice and shard.path.endswith(".gz")
    return replace(shard, name=old) if beside or (old in before and shard.name not in before) else shard


def _check_as_written(path: str, digest: str) -> None:
    """Raises a JaxptError where a step of `jaxpt-data` wrote this shard and it is not what the step wrote."""
    folder, _, name = path.rpartition("/")
    note = storage.join(folder or ".", "manifests", f"{name}.json")
    written = (storage.read_json(note) or {}).get("sha256", digest)
    if written != digest:
        raise JaxptError(
            f"{path} is damaged: it is not what its step wrote; remove it with {note} (in a pipeline also the step's "
            f"file in steps/) and run that step again"
        )


def _size(path: str) -> int:
    fs, inner = fsspec.core.url_to_fs(path)
    return int(fs.size(inner) or 0)


def run_shards(
    shards: Sequence[FileShard],
    output: str | Path,
    settings: Mapping[str, Any],
    step: BatchStep,
    what: str,
    rules: Sequence[Rule] = (),
    workers: int = 1,
) -> list[dict]:
    """Runs a step over shards, skipping those whose manifest says that they are done.

    Args:
        shards: inputs.
        output: folder of the outputs, local or on an object store.
        settings: everything that decides the output; a change makes the shards be done again.
        step: a function of a batch and its place; with several workers, one that can be pickled.
        what: name of the step.
        rules: what the step's statistics are measured by.
        workers: processes over shards, 0 for one per core; never changes an output.

    Returns:
        The manifests.
    """
    output = str(output)
    workers = workers or os.cpu_count() or 1
    key = hashlib.sha256(json.dumps([FORMAT, settings], sort_keys=True, default=str).encode()).hexdigest()
    manifests = [storage.read_json(storage.join(output, "manifests", f"{s.name}.json")) or {} for s in shards]
    done = [m.get("input") == s.fingerprint and m.get("settings") == key for m, s in zip(manifests, shards)]
    jobs = [(s, output, key, what) for s, d in zip(shards, done) if not d]
    start = sum(s.size for s, d in zip(shards, done) if d)
    with progress(sum(s.size for s in shards), what, "B", start=start, scale=True) as bar:
        documents, began = 0, time.monotonic()

        def tick(size: int, rows: int) -> None:
            nonlocal documents
            documents += rows
            rate = documents / max(time.monotonic() - began, 1e-6)
            bar.set_postfix_str(f"{documents:,} docs, {rate:,.0f} docs/s", refresh=False)
            bar.update(size)

        processes = min(workers, len(jobs)) if bar.total - start > SMALL else 1
        fresh = _run(jobs, step, rules, processes, tick)
    return [m if d else next(fresh) for m, d in zip(manifests, done)]


def _run(jobs: Sequence[tuple], step: BatchStep, rules: Sequence[Rule], workers: int, tick: Tick) -> Iterator[dict]:
    if workers <= 1:
        return iter([_one_shard(*job, step, rules, tick) for job in jobs])
    context = get_context("spawn")
    read_so_far = context.Array("q", 2)
    seen = [0, 0]
    with ProcessPoolExecutor(workers, context, _begin, (step, rules, read_so_far)) as pool:
        futures = [pool.submit(_in_worker, job) for job in jobs]
        left: Any = futures
        while left:
            finished, left = wait(left, timeout=0.5)
            now = list(read_so_far)
            tick(now[0] - seen[0], now[1] - seen[1])
            seen = now
            for future in finished:
                if future.exception():
                    pool.shutdown(cancel_futures=True)
                    raise future.exception()
    return iter([future.result() for future in futures])


_worker: dict[str, Any] = {}


def _begin(step: BatchStep, rules: Sequence[Rule], read_so_far: Any) -> None:
    end_with_parent()
    _worker.update(step=step, rules=rules, read=read_so_far)
    gc.freeze()  # the modules stay; looking through them again and again takes 7 % of cleaning


def _in_worker(job: tuple) -> dict:
    def tick(size: int, rows: int) -> None:
        with _worker["read"].get_lock():
            _worker["read"][0] += size
            _worker["read"][1] += rows

    return _one_shard(*job, _worker["step"], _worker["rules"], tick)


def _one_shard(
    shard: FileShard, output: str, key: str, what: str, step: BatchStep, rules: Sequence[Rule], tick: Tick
) -> dict:
    counts, position, counted = Counts(shard.name, rules), BytesRead(), 0
    with ExitStack() as stack:

        def new(*names: str) -> Path:
            return stack.enter_context(storage.new_file(storage.join(output, *names)))

        removals = LinesWriter(new("removals", f"{shard.name}.jsonl"), "removals")
        quarantine = LinesWriter(new("quarantine", f"{shard.name}.jsonl"), "quarantine")
        file = new(shard.name)
        kept = BatchWriter(file, shard.name, shard.field)
        for batch, repaired in read_batches(shard.path, shard.field, position, shard.caps):
            if isinstance(batch, Problem):
                counts.quarantined += 1
                quarantine.write_value(vars(batch))
                continue
            outcome = step(batch, Place(shard.name, counts.rows))
            check(outcome, len(batch), f"{what}: {shard.name}")
            for line in _removals(batch, outcome.removed):
                removals.write_value(line)
            counts.repaired += repaired
            counts.add(batch, outcome)
            kept.write(outcome.kept)
            tick(position.bytes - counted, len(batch))
            counted = position.bytes
        for writer in (removals, quarantine, kept):
            writer.close()
        digest = sha256(file)
    tick(shard.size - counted, 0)
    manifest = {"format": FORMAT, "name": shard.name, "step": what, "input": shard.fingerprint, "settings": key}
    manifest |= {"sha256": digest, **counts.to_dict()}
    storage.write_json(storage.join(output, "manifests", f"{shard.name}.json"), manifest)
    return json.loads(json.dumps(manifest))


def removals(output: str | Path, manifests: Sequence[Mapping[str, Any]]) -> Iterator[dict]:
    """Yields the lines of `removals/` of the given shards, in their order."""
    for manifest in manifests:
        with fsspec.open(storage.join(output, "removals", f"{manifest['name']}.jsonl"), "rb") as file:
            yield from map(json.loads, file)


def _removals(batch: pa.RecordBatch, removed: Sequence[Removed]) -> Iterator[dict]:
    """Yields a line per removal: id, source, url, place, rule, value, detail, an excerpt."""
    if not removed:
        return
    columns = {name: strings(batch, name) for name in ("id", "source", "url")}
    places, everything = batch.column("_place").to_pylist(), texts(batch)
    for gone in removed:
        names = {name: column[gone.row] for name, column in columns.items() if column[gone.row] is not None}
        detail = {**gone.detail, "excerpt": gone.detail.get("excerpt", everything[gone.row][:300])}
        yield {
            **names,
            "place": places[gone.row],
            "rule": gone.rule,
            "value": gone.value,
            "whole": gone.whole,
            **detail,
        }
