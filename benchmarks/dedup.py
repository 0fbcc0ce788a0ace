"""Deduplicate generated documents end to end: speed, memory, recall on planted pairs, false drops; and the peers.

python -m benchmarks.dedup --documents=1000000 --engine=native
python -m benchmarks.dedup --documents=200000 --mix=copies   # nearly all are candidates: what bounds the memory then
python -m benchmarks.dedup --documents=50000 --peers      # the same first documents through datasketch (datatrove)

Ends with 1 where the peak is above `pipeline.memory_bound`, the formula that the documentation states.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.dedup import minhash, pipeline, verify
from data_tools.dedup.engine import open_engine
from data_tools.dedup.pipeline import DedupOptions
from data_tools.dedup.store import SignatureLayout
from data_tools.dedup.units import ROW_BITS

SHARD = 20_000
BASE = 600_000_000  # bytes for Python, numpy, numba and Daft, before there is any data
FRAMES = 20  # templates: every document of kind "template" has one of these frames around words of its own


def vocabulary() -> np.ndarray:
    """Returns 30,000 made-up words of 2 to 12 letters."""
    rng = np.random.default_rng(7)
    letters = np.array(list("eeeaaiioounnrrtlsdcmpghbyfvkw"))
    return np.array(["".join(rng.choice(letters, n)) for n in rng.integers(2, 13, 30_000)], dtype=object)


WORDS = vocabulary()


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws words with frequencies like those of a language (Zipf)."""
    return WORDS[np.minimum((len(WORDS) ** rng.random(count)).astype(int), len(WORDS) - 1)]


MIXES = {  # what stands in each slot of a hundred documents, where it is not a text of its own
    "web": {3: "exact", **dict.fromkeys((11, 31, 51, 71), "near"), 91: "template"},
    "copies": {slot: "near" for slot in range(100) if slot % 20 != 1},
}


def kind(i: int, mix: str) -> str:
    """What document i is. In "web" 1 % are exact copies, 4 % edited copies, 1 % templates; in "copies" 95 % edited."""
    return "own" if i < 100 else MIXES[mix].get(i % 100, "own")


def original(i: int) -> int:
    """The document that a copy copies: one of kind "own" anywhere before it."""
    return (i * 2654435761 >> 7) % i // 20 * 20 + 1


def document(i: int, mix: str = "web") -> str:
    """Returns document i, about 2 KB, a function of i alone."""
    rng, what = np.random.Generator(np.random.PCG64(i)), kind(i, mix)
    if what == "exact":
        return document(original(i), mix)
    if what == "near":
        text = np.array(document(original(i), mix).split(), dtype=object)
        edits = int(rng.integers(1, max(len(text) // 35, 2)))
        text[rng.choice(len(text), edits, replace=False)] = words(rng, edits)
        return " ".join(text)
    if what == "template":
        frame = words(np.random.Generator(np.random.PCG64(10**9 + i // 100 % FRAMES)), 250)
        return " ".join([*frame[:150], *words(rng, 30), *frame[150:]])
    return " ".join(words(rng, int(rng.integers(200, 450))))


@dataclass(frozen=True)
class Generated:
    """A shard of generated documents."""

    start: int
    stop: int
    mix: str = "web"
    fingerprint: str = "generated-1"

    @property
    def name(self) -> str:
        """Sorts as it counts."""
        return f"{self.start:012}"

    def rows(self) -> Iterator[dict]:
        """Yields the documents."""
        return ({"text": document(i, self.mix)} for i in range(self.start, self.stop))


class Memory(threading.Thread):
    """Samples RssAnon + RssShmem of this process at 20 Hz."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0
        self.running = True

    def run(self) -> None:
        """Until `running` is false."""
        while self.running:
            fields = dict(
                line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
            )
            now = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
            self.peak = max(self.peak, now * 1024)
            time.sleep(0.05)


def score(result: pipeline.Result, shards: list[Generated]) -> dict:
    """Compares what was dropped with what was planted."""
    dropped = {}
    for shard, number in zip(shards, result.numbers):
        for unit, row in result.dropped(number).items():
            anchor = (row["anchor"] >> ROW_BITS, row["anchor"] & (1 << ROW_BITS) - 1)
            place = shards[result.numbers.index(anchor[0])].start + anchor[1]
            dropped[shard.start + (unit & (1 << ROW_BITS) - 1)] = place

    def final(i: int) -> int:
        return dropped.get(i, i)  # a pair is found when both stand for the same kept document

    found = near = exact = exact_found = 0
    family: dict[int, set[int]] = {}
    count, mix = shards[-1].stop, shards[-1].mix
    for i in range(100, count):
        what = kind(i, mix)
        if what not in ("exact", "near"):
            continue
        family.setdefault(original(i), {original(i)}).add(i)
        if what == "exact":
            exact += 1
            exact_found += final(i) == final(original(i))
        else:
            pair = minhash.hash_tokens([document(i, mix), document(original(i), mix)])
            if verify.compare(verify.Profile(pair[0]), verify.Profile(pair[1])).jaccard >= 0.8:
                near += 1
                found += final(i) == final(original(i))
    member = {i: root for root, all_of_it in family.items() for i in all_of_it}
    false = [i for i, anchor in dropped.items() if member.get(i, -1) != member.get(anchor, -2)]
    templates = sum(kind(i, mix) == "template" for i in range(count))
    return {
        "planted_pairs_J>=0.8": near,
        "recall_J>=0.8": found / max(near, 1),
        "recall_exact": exact_found / max(exact, 1),
        "dropped": len(dropped),
        "false_drops": len(false),
        "templates": templates,
        "templates_lost": sum(kind(i, mix) == "template" for i in false),
    }


def speed_of_signatures(texts: list[str]) -> dict:
    """CPU speed of one core, documents per second."""
    out = {}
    for path in ("numpy", "compiled"):
        minhash.signatures(texts[:10], path=path)
        start = time.process_time()
        minhash.signatures(texts, path=path)
        out[f"signatures_{path}_docs_per_cpu_s"] = len(texts) / (time.process_time() - start)
    return out


def datasketch_run(texts: list[str]) -> dict:
    """The peer as its manual shows it: word 5-grams, bulk signatures with xxh32, MinHashLSH in memory."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    start = time.process_time()
    sets = []
    for text in texts:
        parts = text.lower().split()
        sets.append({" ".join(parts[k : k + 5]).encode() for k in range(max(len(parts) - 4, 1))})
    signed = MinHash.bulk(sets, num_perm=112, hashfunc=xxhash.xxh32_intdigest)
    middle = time.process_time()
    index, duplicates = MinHashLSH(num_perm=112, params=(14, 8)), 0
    for i, one in enumerate(signed):
        duplicates += bool(index.query(one))
        index.insert(i, one)
    end = time.process_time()
    return {
        "datasketch_signatures_docs_per_cpu_s": len(texts) / (middle - start),
        "datasketch_whole_docs_per_cpu_s": len(texts) / (end - start),
        "datasketch_candidates_dropped_unverified": duplicates,
    }


def datatrove_run(texts: list[str]) -> dict:
    """The peer's first stage: its own normalisation, shingles and signatures, 14 x 8.

    Its hash passes text to xxhash, which takes only bytes from version 4 on: encoded here.
    """
    try:
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    except ImportError as error:
        return {"datatrove": f"not measured: {error}"}
    import xxhash

    step = MinhashDedupSignature("unused", config=MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8))
    step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
    start = time.process_time()
    for text in texts:
        step.get_signature(step.get_shingles(text))
    return {"datatrove_signatures_docs_per_cpu_s": len(texts) / (time.process_time() - start)}


def main() -> None:
    """Runs and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--engine", default="native")
    parser.add_argument("--strictness", default="balanced")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--mix", choices=MIXES, default="web")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--datatrove", type=int, default=10_000, help="documents that datatrove signs with --peers")
    args = parser.parse_args()
    memory = Memory()
    memory.start()
    shards = [Generated(i, min(i + SHARD, args.documents), args.mix) for i in range(0, args.documents, SHARD)]
    options = DedupOptions(strictness=args.strictness, workers=args.workers, splits=args.splits)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.time(), time.process_time()
        result = pipeline.run(shards, folder, SignatureLayout(), open_engine(args.engine), options)
        wall, cpu = time.time() - wall, time.process_time() - cpu
        memory.running = False
        sizes = (args.documents, result.counts["candidates"], min(SHARD, args.documents))
        bound = BASE + pipeline.memory_bound(*sizes, result.counts["largest_cluster"], splits=args.splits)
        seen = {"documents": args.documents, "wall_s": wall, "cpu_s": cpu, "peak_bytes": memory.peak, "bound": bound}
        print(json.dumps({**seen, **result.counts}))
        print(json.dumps(score(result, shards)))
    if memory.peak > bound:
        sys.exit(f"peak of {memory.peak:,} bytes is above the bound {bound:,}")
    texts = [document(i) for i in range(min(args.documents, 5000))]
    print(json.dumps({"bytes_per_document": np.mean([len(t) for t in texts]), **speed_of_signatures(texts)}))
    if args.peers:
        many = [document(i) for i in range(min(args.documents, 50_000))]
        print(json.dumps(datasketch_run(many)))
        print(json.dumps(datatrove_run(many[: args.datatrove])))


if __name__ == "__main__":
    main()
