"""Speed, start-up and memory of the loader: 17 sources of 4,096-token rows from local disk.

    python -m benchmarks.loader --folder=SCRATCH                # makes about 1.2 GB of rows, and columns of 10 M rows
    python -m benchmarks.loader --folder=SCRATCH --batches=100000

Aims: 20 M tokens/s per process after the first epoch's page-in; under 2 s from the paths of sources of 10 M rows to the
first batch; under 1 MB of anonymous memory per 10,000 batches. Where other work shares the cores, compare CPU seconds.
"""

import argparse
import gc
import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from jaxpt.cli.terminal import progress, table
from jaxpt.data import Loader, PackedSource, PackedWriter, StageData
from jaxpt.data.packed import DIGEST
from jaxpt.data.records import Row
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import sha256

SOURCES, LENGTH = 17, 4096
LARGE, SHARD = 10_000_000, 65_536  # rows


def make(folder: Path, rows: int) -> dict[str, PackedSource]:
    """Writes the sources unless they are there: rows of a few documents each."""
    out = {}
    rng = np.random.default_rng(0)
    for i in range(SOURCES):
        path = folder / f"s{i:02d}"
        if not path.exists():
            with PackedWriter(path, LENGTH, 32_000) as writer:
                for n in range(rows):
                    starts = np.unique(np.concatenate([[0], rng.integers(1, LENGTH, 3), [LENGTH]]))
                    row = Row(rng.integers(0, 32_000, LENGTH), starts, np.ones(LENGTH, bool))
                    writer.write((row, [n] * (len(starts) - 1)))
                writer.finish([n.to_bytes(16, "little") for n in range(rows)], [LENGTH] * rows, "made", {})
        out[path.name] = PackedSource.open(path)
    return out


def anonymous() -> int:
    """This process's anonymous memory in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("no RssAnon in /proc/self/status")


def large(folder: Path) -> list[Path]:
    """Writes 17 sources of 10 M short rows: one shard, and its columns, under as many names as that takes."""
    shards, first = -(-LARGE // SHARD), folder / "shard"
    with PackedWriter(first, 8, 32_000, rows_per_shard=SHARD) as writer:
        row = Row(np.arange(8), np.array([0, 8]), np.ones(8, bool))
        for n in range(SHARD):
            writer.write((row, [n]))
        made = writer.finish([n.to_bytes(16, "little") for n in range(SHARD)], [8] * SHARD, "made", {})
    columns = {
        "row_fill": np.full(shards * SHARD, 8, np.uint32),
        "row_segments": np.arange(shards * SHARD + 1, dtype=np.uint64),
        "segment_document": np.arange(shards * SHARD, dtype=np.uint32),
        "document_id": np.stack([np.arange(shards * SHARD, dtype=np.uint64)] * 2, axis=1),
        "document_tokens": np.full(shards * SHARD, 8, np.uint32),
    }
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    digests = {f"{name}.npy": sha256(folder / f"{name}.npy") for name in columns}
    shard, out = first / "rows-00000.array_record", []
    for i in range(SOURCES):
        path = folder / f"l{i:02d}"
        path.mkdir()
        files = [(f"rows-{n:05d}.array_record", shard, SHARD) for n in range(shards)]
        files += [(f"{n}.npy", folder / f"{n}.npy", len(c)) for n, c in columns.items()]
        for name, target, _ in files:
            (path / name).hardlink_to(target)
        listed = [
            {"name": n, "bytes": t.stat().st_size, "sha256": digests.get(n, ""), "records": r} for n, t, r in files
        ]
        counts = {"rows": shards * SHARD, "documents": shards * SHARD, "tokens": 8 * shards * SHARD}
        said = {name: value for name, value in made.facts.items() if name != DIGEST}
        facts = {**said, **counts, "options": {"made": i}, "files": listed}
        (path / "source.json").write_text(json.dumps({**facts, DIGEST: canonical_digest(facts)}))
        out.append(path)
    return out


def start_up(folder: Path) -> tuple[float, float]:
    """Seconds and CPU seconds from the paths of 17 sources of 10 M rows to the first batch."""
    paths = large(folder)
    began, cpu = time.perf_counter(), time.process_time()
    sources = {path.name: PackedSource.open(path) for path in paths}
    loader = Loader(sources, [StageData(0, 10**6, 64, 8, {n: 1 / (i + 2) for i, n in enumerate(sources)})])
    loader.batch(0)
    return time.perf_counter() - began, time.process_time() - cpu


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=8192, help="of each source")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=3000)
    parser.add_argument("--keep", action="store_true", help="leave the sources for another run")
    args = parser.parse_args()
    sources = make(args.folder, args.rows)
    weights = {name: 1 / (i + 2) for i, name in enumerate(sources)} | {"s00": 0.03, "s01": 1 / 3}
    stages = [StageData(0, args.batches, args.batch_size, LENGTH, weights)]
    needed = args.batches * args.batch_size
    repeat = dict.fromkeys(sources, -(-needed // args.rows) + 1)
    loader = Loader(sources, stages, repeat=repeat)
    for source in sources.values():  # the first epoch's page-in
        for first in range(0, source.rows, 512):
            source.records(range(first, min(first + 512, source.rows)))
    rates, memory, began, cpu = [], [], time.perf_counter(), time.process_time()
    with progress(args.batches, "load", "batch") as bar:
        for step, batch in loader.iterate(0):
            bar.update()
            if (step + 1) % 200 == 0:
                now = time.perf_counter()
                rates.append(200 * batch["tokens"].size / (now - began))
                began = now
                gc.collect()
                memory.append(anonymous())
    cpu = time.process_time() - cpu
    shutil.rmtree(args.folder / "large", ignore_errors=True)
    (args.folder / "large").mkdir()
    start = start_up(args.folder / "large")
    warm = memory[len(memory) // 4 :] or memory
    growth = (warm[-1] - warm[0]) / max((len(warm) - 1) * 200, 1) * 10_000 if warm else float("nan")
    rows = [
        ["tokens per second, median", f"{statistics.median(rates) / 1e6:.1f} M" if rates else "too few batches"],
        ["tokens per CPU second", f"{args.batches * args.batch_size * LENGTH / cpu / 1e6:.1f} M"],
        ["start-up, 17 sources of 10 M rows", f"{start[0]:.2f} s ({start[1]:.2f} CPU seconds)"],
        ["anonymous memory per 10,000 batches", f"{growth / 2**20:+.2f} MiB"],
        ["batches", f"{args.batches:,} of {args.batch_size} x {LENGTH}"],
    ]
    print(table(["loader", ""], rows))
    if not args.keep:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
