"""Speed, start-up and memory of the loader: 17 sources of 4,096-token rows from local disk.

    python -m benchmarks.loader --folder=SCRATCH                # makes about 1.2 GB of rows, and columns of 10 M rows
    python -m benchmarks.loader --folder=SCRATCH --batches=100000

Aims: 20 M tokens/s per process after the first epoch's page-in; start-up under 2 s for sources of 10 M rows (the plan's
arithmetic over a source that large; its rows are not made); under 1 MB of anonymous memory per 10,000 batches.
"""

import argparse
import gc
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from jaxpt.data import Loader, PackedSource, PackedWriter, StageData
from jaxpt.data.records import Row
from jaxpt.terminal import progress, table

SOURCES, LENGTH = 17, 4096


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


class Large:
    """A source of 10 M rows as the plan sees it."""

    def __init__(self, i: int):
        """Rows and fingerprint, no data."""
        self.rows, self.fingerprint, self.name, self.path = 10_000_000, f"{i:064x}", f"l{i}", Path()


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
    rates, memory, began = [], [], time.perf_counter()
    with progress(args.batches, "load", "batch") as bar:
        for step, batch in loader.iterate(0):
            bar.update()
            if (step + 1) % 200 == 0:
                now = time.perf_counter()
                rates.append(200 * batch["tokens"].size / (now - began))
                began = now
                gc.collect()
                memory.append(anonymous())
    began = time.perf_counter()
    Loader({f"l{i}": Large(i) for i in range(SOURCES)}, [StageData(0, 10**6, 1024, LENGTH, {"l0": 1.0, "l3": 0.5})])
    start = time.perf_counter() - began
    warm = memory[len(memory) // 4 :] or memory
    growth = (warm[-1] - warm[0]) / max((len(warm) - 1) * 200, 1) * 10_000
    rows = [
        ["tokens per second, median", f"{statistics.median(rates) / 1e6:.1f} M"],
        ["start-up, 17 sources of 10 M rows", f"{start:.2f} s"],
        ["anonymous memory per 10,000 batches", f"{growth / 2**20:+.2f} MiB"],
        ["batches", f"{args.batches:,} of {args.batch_size} x {LENGTH}"],
    ]
    print(table(["loader", ""], rows))
    if not args.keep:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
