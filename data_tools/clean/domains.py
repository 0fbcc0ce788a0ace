"""Lines that many pages of one domain share: a first pass counts them, exactly, in bounded memory.

The first pass writes, for each shard, a 64-bit key per distinct line of each record, derived from (domain, line),
sorted. The keys are then counted in `splits` passes over the range of keys. What decides is how many records of the
domain hold the line, so that neither the order of records nor the number of workers changes anything.

Memory: 40 bytes per line of the largest shard while it is read, then 24 bytes per line of the corpus / `splits`, and 8
bytes per line found frequent in every worker (memory-mapped). Two lines with one key (probability 1e-7 at 2 million
distinct lines) would be counted as one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from data_tools.clean.lines import EXCERPT, LineCut, Options
from jaxpt.files.partial import whole_file

_DIGITS = str.maketrans({chr(c): "0" for c in range(ord("1"), ord("9") + 1)})
LONGEST = 1000  # characters of a line that can be boilerplate


def key(domain_hash: int, line: str) -> int:
    """Returns the key of a line of a domain: white space at the ends ignored, every digit taken for 0."""
    plain = line.strip().translate(_DIGITS)
    return xxhash.xxh3_64_intdigest(plain.encode("utf-8", "replace"), seed=domain_hash)


def domain_hash(domain: str) -> int:
    """Returns the number that stands for a domain in its lines' keys."""
    return xxhash.xxh3_64_intdigest(domain.encode("utf-8", "replace"))


def keys_of(text: str, domain: str) -> set[int]:
    """Returns the keys of the distinct filled lines of a text, each once."""
    seed = domain_hash(domain)
    return {key(seed, line) for line in set(text.split("\n")) if line and len(line) <= LONGEST and not line.isspace()}


def write_keys(path: Path, records: Iterable[tuple[str, str]]) -> None:
    """Writes the keys of a shard's (text, domain) pairs; records without a domain have none."""
    parts = []
    for text, domain in records:
        if domain:
            mine = keys_of(text, domain)
            parts.append(np.fromiter(mine, np.uint64, len(mine)))
    keys = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    keys.sort()
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary, temporary.open("wb") as file:
        np.save(file, keys)


def frequent(paths: Sequence[Path], least: int, splits: int = 1) -> Iterator[np.ndarray]:
    """Yields the keys that occur at least `least` times over all files, ascending, one range of keys after another."""
    edges = [(i << 64) // splits for i in range(splits + 1)]
    for low, high in pairwise(edges):
        parts = []
        for path in paths:
            keys = np.load(path, mmap_mode="r")
            begin = np.searchsorted(keys, np.uint64(low), side="left")
            end = np.searchsorted(keys, np.uint64(high - 1), side="right")
            parts.append(np.asarray(keys[begin:end]))
        mine = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        mine.sort()
        if len(mine) >= least:
            # the key at i and the key least - 1 places further are equal: it occurs often enough
            head = mine[: len(mine) - least + 1]
            yield np.unique(head[head == mine[least - 1 :]])


def memory_bound(lines_of_largest_shard: int, lines: int, splits: int, frequent_lines: int) -> int:
    """Returns the bytes that counting takes at most."""
    return max(40 * lines_of_largest_shard, 24 * -(-lines // splits)) + 8 * frequent_lines


def count(
    folder: Path, shards: Sequence[tuple[str, str, Callable[[], Iterable[tuple[str, str]]]]], least: int, splits: int
) -> Path:
    """Counts the lines of all shards and returns the file of frequent keys; finished shards are not read again.

    Args:
        folder: where the keys are kept.
        shards: name, fingerprint and a function that yields (text, domain) pairs, per shard.
        least: records of a domain that must hold a line for it to be boilerplate.
        splits: passes over the keys; more passes, less memory.
    """
    paths = []
    for name, fingerprint, records in shards:
        path = folder / f"{name}-{fingerprint[:16]}.npy"
        if not path.is_file():
            write_keys(path, records())
        paths.append(path)
    identity = hashlib.sha256(json.dumps([[p.name for p in paths], least]).encode()).hexdigest()[:16]
    out = folder / f"frequent-{identity}.npy"
    if not out.is_file():
        hashes = [np.zeros(0, np.uint64), *frequent(paths, least, splits)]
        with whole_file(out, out.with_name(out.name + ".tmp")) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(hashes))
    return out


@lru_cache(maxsize=2)
def load(path: str) -> np.ndarray:
    """Returns the frequent keys, ascending, memory-mapped."""
    return np.load(path, mmap_mode="r")


def domain_lines(text: str, options: Options, domain: str) -> tuple[str, list[LineCut], dict[str, float]]:
    """Cuts the lines that are frequent in the text's domain."""
    known = load(options["file"])
    if not domain or not len(known):
        return text, [], {}
    lines, seed = text.split("\n"), domain_hash(domain)
    filled = [i for i, l in enumerate(lines) if l and len(l) <= LONGEST and not l.isspace()]
    keys = np.array([key(seed, lines[i]) for i in filled], np.uint64)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    gone = {filled[i] for i in np.flatnonzero(known[place] == keys)}
    if not gone:
        return text, [], {}
    cuts = [("domain_line", i, lines[i].strip()[:EXCERPT]) for i in sorted(gone)]
    return "\n".join(l for i, l in enumerate(lines) if i not in gone).strip("\n"), cuts, {}
