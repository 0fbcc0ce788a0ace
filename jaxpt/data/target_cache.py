"""A cache of a teacher's targets: the packed companion of a source, whose record k belongs to the source's row k.

begun.json              what decides the targets, written first: who goes on with the cache must agree
targets-00000.array_record, …   records of `jaxpt.data.targets`, `rows_per_shard` rows each
targets-00000.json, …   a shard's size, digest and counts, written once it is whole
targets.json            all of it under one digest, written last: without it nothing is read
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from jaxpt.data.packed import DIGEST, FileFacts, PackedSource
from jaxpt.data.shards import Shards
from jaxpt.data.targets import TargetArrays, TargetKind, Targets, decode, widened
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import sha256

FORMAT = 1
WHOLE, BEGUN = "targets.json", "begun.json"
WAY_OUT = "write the cache again with jaxpt distill-cache"


class TargetOrigin(TypedDict):
    """What decides every record: equal origins give equal targets."""

    format: int
    kind: str
    ids: int
    vocab_size: int
    temperature: float
    seed: int
    source: str  # fingerprint of the packed source
    tokenizer: str  # fingerprint of the tokenizer of both
    sequence_length: int
    rows: int
    teacher: str  # digest of its parameters
    dtype: str  # that the teacher computed in


class ShardFacts(FileFacts):
    """What is said of one shard: besides its file, the longest length, positions with targets, ids, and the sum of
    the teacher's entropy in nats."""

    width: int
    positions: int
    ids: int
    entropy: float


class CacheJson(TargetOrigin):
    """What targets.json says, without its own digest."""

    rows_per_shard: int
    teacher_name: str  # as the one who wrote the cache named it
    files: list[ShardFacts]


class TargetCache:
    """A whole cache opened for reading; its shards are read on demand."""

    def __init__(self, path: Path, facts: CacheJson):
        """Use `open`."""
        self.path, self.facts = path, facts
        self.kind = target_kind(facts)
        self.fingerprint = canonical_digest(facts)
        files = facts["files"]
        self.width = max(f["width"] for f in files)
        self.positions, self.ids = (sum(f[key] for f in files) for key in ("positions", "ids"))
        self.bytes = sum(f["bytes"] for f in files)
        self.payload = facts["rows"] * facts["sequence_length"] + 2 * self.positions + self.kind.item_bytes * self.ids
        self.mean_entropy = sum(f["entropy"] for f in files) / max(1, self.positions)
        self._shards = Shards([str(path / f["name"]) for f in files], [f["records"] for f in files])

    @classmethod
    def open(cls, path: str | Path) -> "TargetCache":
        """Opens a cache, checking that every file is there and as long as `targets.json` says.

        Raises:
            JaxptError: no cache, or one that is not whole; an unknown format; a damaged `targets.json`; a file missing
                or of another size.
        """
        path = Path(path)
        file = path / WHOLE
        if not file.is_file():
            hint = "it was not written to the end" if (path / BEGUN).is_file() else "no targets.json"
            raise JaxptError(f"{path} is not a cache of teacher targets ({hint}); {WAY_OUT}")
        values = read_json(file)
        if values.get("format") != FORMAT:
            raise JaxptError(f"{file}: format {values.get('format')} is not read by this jaxpt (format {FORMAT})")
        facts: Any = {key: value for key, value in values.items() if key != DIGEST}
        if values.get(DIGEST) != canonical_digest(facts):
            raise JaxptError(f"{file} is damaged: its content is not what {DIGEST} says; {WAY_OUT}")
        for entry in facts["files"]:
            shard = path / entry["name"]
            size = shard.stat().st_size if shard.is_file() else 0
            if size != entry["bytes"]:
                raise JaxptError(f"{shard} has {size:,} bytes, {WHOLE} says {entry['bytes']:,}; {WAY_OUT}")
        return cls(path, facts)

    def check(self, source: PackedSource) -> None:
        """Raises a JaxptError where the cache is not of the source's rows: another tokenizer, text or packing."""
        facts = self.facts
        if facts["tokenizer"] != source.tokenizer_fingerprint:
            raise JaxptError(
                f"{self.path} is of tokenizer {facts['tokenizer'][:12]}, {source.path} was packed with "
                f"{source.tokenizer_fingerprint[:12]}; {WAY_OUT} for this source"
            )
        if facts["source"] != source.fingerprint:
            raise JaxptError(
                f"{self.path} belongs to the rows of another packed source ({facts['source'][:12]}), {source.path} is "
                f"{source.fingerprint[:12]}; {WAY_OUT} for this source"
            )

    def targets(self, rows: Sequence[int] | np.ndarray) -> list[Targets]:
        """Returns the targets of rows, in their order.

        Raises:
            JaxptError: a record that cannot be read, or is not what was written.
        """
        try:
            records = self._shards.read(rows)
            return [decode(record, self.facts["sequence_length"], self.kind) for record in records]
        except ValueError as error:
            raise JaxptError(f"{self.path} is damaged ({error}); {WAY_OUT}") from error

    def read(self, rows: Sequence[int] | np.ndarray, width: int | None = None) -> TargetArrays:
        """Returns the targets of rows in a fixed width, by default the cache's own; raises as `targets`."""
        return widened(self.targets(rows), self.kind, self.width if width is None else width)

    def verify(self) -> None:
        """Rehashes every shard.

        Raises:
            JaxptError: a file's content is not what was written.
        """
        for entry in self.facts["files"]:
            if sha256(self.path / entry["name"]) != entry["sha256"]:
                raise JaxptError(f"{self.path / entry['name']} was changed since it was written; {WAY_OUT}")


def target_kind(facts: Mapping[str, Any]) -> TargetKind:
    """Returns what the records of an origin hold."""
    return TargetKind(facts["kind"], facts["ids"], facts["vocab_size"])


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object in a JSON file of a cache.

    Raises:
        JaxptError: it cannot be read.
    """
    try:
        values = json.loads(file.read_bytes())
    except OSError as error:
        raise JaxptError(f"{file} cannot be read ({error.strerror}); make it readable and try again") from error
    except ValueError as error:
        raise JaxptError(f"{file} is broken ({error}); {WAY_OUT}") from error
    if not isinstance(values, dict):
        raise JaxptError(f"{file} is broken (no JSON object); {WAY_OUT}")
    return values
