"""The content fingerprint of files: what decides whether something made from them can be used again."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import fsspec
from fsspec import AbstractFileSystem

from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import whole_file

BLOCK = 2**22
SETTLED = 2.0  # seconds: a file changed later than this before it was hashed may change again unseen


class FileEntry(TypedDict):
    """A file's hash, the state that it was in, and a digest of both."""

    state: list[str | int | None] | None
    digest: str
    check: str


def content_fingerprint(files: Sequence[str], memo: Path) -> str:
    """Returns the SHA-256 (hex) over the contents of `files` in their order; names and folders do not enter.

    A file's hash is kept in `memo` under its path, size, time of change and inode (on object stores: the store's own
    checksum), so that later calls read nothing of files that did not change.

    Args:
        files: on any file system fsspec knows.
        memo: a JSON file, made and replaced as needed.
    """
    known = _read(memo)
    entries = {file: _digest(file, known.get(file)) for file in files}
    fresh = {file: entry for file, entry in entries.items() if entry["state"] is not None}
    if any(known.get(file) != entry for file, entry in fresh.items()):
        with whole_file(memo, memo.with_name(f".{memo.name}.{os.getpid()}")) as temporary:
            temporary.write_text(json.dumps({**_read(memo), **fresh}))
    return hashlib.sha256(json.dumps([entries[f]["digest"] for f in files]).encode()).hexdigest()


def _read(memo: Path) -> dict[str, FileEntry]:
    """What is remembered; a broken memo is forgotten, it only saves time."""
    try:
        values = json.loads(memo.read_text())
        return {
            f: e
            for f, e in values.items()
            if e.keys() == {"state", "digest", "check"} and e["check"] == _check(e["state"], e["digest"])
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _is_whole(entry: Mapping[str, Any]) -> bool:
    known = entry.keys() == FileEntry.__annotations__.keys()
    return known and entry["check"] == _check(entry["state"], entry["digest"])


def _check(state: list[str | int | None] | None, digest: str) -> str:
    """A digest of an entry, so that one that was damaged is forgotten too."""
    return canonical_digest([state, digest])[:16]


def _digest(file: str, known: FileEntry | None) -> FileEntry:
    """The file's hash and the state it was in; a state of None must not be remembered."""
    fs, path = fsspec.core.url_to_fs(file)
    state = _state(fs, path)
    if known is not None and state is not None and known["state"] == state:
        return known
    digest = hashlib.sha256()
    with fs.open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    kept = state if _state(fs, path) == state else None
    return {"state": kept, "digest": digest.hexdigest(), "check": _check(kept, digest.hexdigest())}


def _state(fs: AbstractFileSystem, path: str) -> list[str | int | None] | None:
    """What changes when the file does; None where the file system has no such thing."""
    facts = fs.info(path)
    if "ino" in facts:  # a local file
        stat = os.stat(path)
        settled = time.time() - stat.st_mtime > SETTLED
        return [stat.st_size, stat.st_mtime_ns, stat.st_ino] if settled else None
    marks = [str(facts[k]) for k in ("md5Hash", "crc32c", "etag", "ETag") if facts.get(k)]
    return [facts.get("size"), *marks] if marks else None
