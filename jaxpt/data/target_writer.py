"""Writes a cache of teacher targets shard by shard: killed, it goes on at the next; several processes share the shards.

A shard is written under a lock of its own, as a file that gets its name when it is whole, and counts once the JSON
beside it is there. Which process wrote it leaves no trace.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from jaxpt.data.packed import DIGEST
from jaxpt.data.target_cache import BEGUN, WHOLE, ShardFacts, TargetCache, TargetOrigin, read_json, target_kind
from jaxpt.data.targets import Targets, encode
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.lock import HeldElsewhere, Lock, beside
from jaxpt.files.partial import sha256, storage_error

POLL = 0.5  # seconds between two looks at shards that other processes write
RowTargets = Callable[[int, int], Iterator[Targets]]  # (first row, row after the last) -> the targets of each row


def begin(path: Path, origin: TargetOrigin, rows_per_shard: int, teacher_name: str) -> dict[str, Any]:
    """Begins a cache, or goes on with one of the same origin; returns what begun.json says.

    Raises:
        JaxptError: the directory holds something else, or a cache of another origin, whose difference is named.
    """
    begun = path / BEGUN
    wanted = {**origin, "rows_per_shard": rows_per_shard}
    with Lock(beside(path), path, "--to").wait():
        if not begun.exists():
            if path.exists() and any(path.iterdir()):
                raise JaxptError(f"{path} holds other files; give another --to")
            path.mkdir(parents=True, exist_ok=True)
            _replace(begun, {**wanted, "teacher_name": teacher_name})
    held = read_json(begun)
    for key, value in wanted.items():
        if held.get(key) != value:
            raise JaxptError(
                f"{path} was begun with {key} {_short(held.get(key))}, this is {_short(value)}; give another --to, or "
                f"remove it"
            )
    return held


def fill(path: Path, begun: Mapping[str, Any], rows_of: RowTargets) -> Iterator[tuple[int, ShardFacts]]:
    """Writes all shards that are not there and that no other process is writing; waits for those, and finishes.

    Yields:
        The number of each shard that this process wrote, and its facts.

    Raises:
        JaxptError: a full disk; a shard of another size than its JSON says.
    """
    rows, size = begun["rows"], begun["rows_per_shard"]
    open_shards = dict(enumerate((first, min(first + size, rows)) for first in range(0, rows, size)))
    while open_shards:
        before = len(open_shards)
        for i, (first, stop) in list(open_shards.items()):
            if not _is_done(path, i):
                try:
                    lock = Lock(beside(path / _name(i)), path, "--to").acquire()
                except HeldElsewhere:
                    continue
                with lock:
                    if not _is_done(path, i):
                        yield i, _write(path, i, begun, rows_of(first, stop))
            del open_shards[i]
        if open_shards and len(open_shards) == before:
            time.sleep(POLL)
    _finish(path, begun)


def _write(path: Path, i: int, begun: Mapping[str, Any], rows: Iterator[Targets]) -> ShardFacts:
    kind, target = target_kind(begun), path / _name(i)
    partial = path / f".{target.name}.partial"  # under the shard's lock: nobody else writes it
    records, width, positions, ids, entropy = 0, 0, 0, 0, 0.0
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    try:
        for targets in rows:
            writer.write(encode(targets, kind))
            records, width = records + 1, max(width, int(targets.lengths.max()))
            positions, ids = positions + len(targets.entropy), ids + len(targets.ids)
            entropy += float(targets.entropy.sum(dtype="float64"))
        writer.close()
        facts: ShardFacts = {
            "name": target.name,
            "bytes": partial.stat().st_size,
            "sha256": sha256(partial),
            "records": records,
            "width": width,
            "positions": positions,
            "ids": ids,
            "entropy": entropy,
        }
        os.replace(partial, target)
        _replace(_facts(path, i), {**facts, DIGEST: canonical_digest(facts)})
    except (OSError, RuntimeError) as error:
        raise storage_error(path, error) from error
    finally:
        if writer.is_open():
            with suppress(RuntimeError):
                writer.close()
        partial.unlink(missing_ok=True)
    return facts


def _finish(path: Path, begun: Mapping[str, Any]) -> None:
    """Writes targets.json from the facts of all shards; the same whoever does it."""
    count = -(-begun["rows"] // begun["rows_per_shard"])
    files = []
    for i in range(count):
        values = read_json(_facts(path, i))
        facts = {key: value for key, value in values.items() if key != DIGEST}
        if values.get(DIGEST) != canonical_digest(facts):
            raise JaxptError(f"{_facts(path, i)} is damaged; remove it, and start the command again")
        files.append(facts)
    whole = {**begun, "files": files}
    _replace(path / WHOLE, {**whole, DIGEST: canonical_digest(whole)})
    TargetCache.open(path)


def _is_done(path: Path, i: int) -> bool:
    """Whether a shard is whole; one of another size than was noted is written again."""
    try:
        return (path / _name(i)).stat().st_size == read_json(_facts(path, i)).get("bytes")
    except (OSError, JaxptError):
        return False


def _name(i: int) -> str:
    return f"targets-{i:05d}.array_record"


def _facts(path: Path, i: int) -> Path:
    return path / f"targets-{i:05d}.json"


def _replace(file: Path, values: Mapping[str, Any]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1))
    os.replace(temporary, file)


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 24 else repr(value)
