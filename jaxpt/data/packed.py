"""A packed source: a directory of fixed-length token rows in which row k is always the same tokens.

    source.json            what it holds, with the digest of every file below; written last
    rows-NNNNN.array_record, COLUMN.npy
    tokenizer/             the files of the tokenizer that made the ids; `digests.json` beside it holds their digests

The tokenizer is no part of the fingerprint: the same rows are the same source with and without it, and
`tokenizer_fingerprint` says which one it must be. Sources of earlier versions carry none.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from jaxpt.data import records
from jaxpt.data.carried import carried_tokenizer
from jaxpt.data.packing import Packed
from jaxpt.data.remote import default_cache, file_digest, file_system, is_remote, local_copy
from jaxpt.data.shards import Shards
from jaxpt.data.text_files import LeftOut
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent
from jaxpt.files.digests import canonical_digest, report_without_digests, write_digests
from jaxpt.files.partial import partial_directory, sha256, storage_error
from jaxpt.tokenizers.interface import Tokenizer

if TYPE_CHECKING:  # the models need JAX and Flax, which reading data does not
    from jaxpt.models.batch import Rows

FORMAT = 1
DIGEST = "fingerprint"  # in source.json: the digest of all that it says besides, which is what names the content
COLUMNS = ("row_fill", "row_segments", "segment_document", "document_id", "document_tokens")


class FileFacts(TypedDict):
    """What source.json says of one file."""

    name: str
    bytes: int
    sha256: str
    records: int


class SourceJson(TypedDict):
    """What source.json says, without its own digest."""

    format: int
    sequence_length: int
    dtype: str
    rows: int
    tokens: int
    documents: int
    vocab_size: int
    tokenizer_fingerprint: str
    options: Mapping[str, object]
    files: list[FileFacts]


QUARANTINE = "quarantine.jsonl"


class PackedWriter:
    """Writes a packed source into a temporary sibling; `finish` gives it its name.

    Use as a context manager: leaving it on an error removes what was written.
    """

    def __init__(self, path: str | Path, sequence_length: int, vocab_size: int, *, rows_per_shard: int = 65_536):
        """Starts a source of rows of `sequence_length` tokens.

        Raises:
            JaxptError: `path` exists, or is none of this machine.
        """
        if is_remote(path):
            raise JaxptError(
                f"{path}: sources are packed on this machine; give a directory, and copy it there as it is"
            )
        self.path = Path(path)
        self.sequence_length, self.vocab_size = sequence_length, vocab_size
        self.dtype = records.token_dtype(vocab_size)
        self._rows_per_shard = rows_per_shard
        self._open = ExitStack()
        self._partial = self._open.enter_context(partial_directory(self.path))
        self._writer: ArrayRecordWriter | None = None
        self._in_shard: list[int] = []
        self._fill: list[int] = []
        self._segments: list[int] = [0]
        self._segment_document: list[np.ndarray] = []
        self.left_out = 0  # records of the input that were not read

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(JaxptError):  # what is written is removed
            self._close_shard()
        self._open.close()

    def leave_out(self, record: LeftOut) -> None:
        """Notes a record of the input that is not packed in `quarantine.jsonl`; prints the first one."""
        if not self.left_out:
            where = f"{self.path}/{QUARANTINE}"
            print(f"{record.place}: {record.reason}; left out, all such are listed in {where}", file=sys.stderr)
        self.left_out += 1
        with (self._partial / QUARANTINE).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(vars(record), ensure_ascii=False) + "\n")

    def write(self, packed: Packed) -> None:
        """Appends one row.

        Raises:
            JaxptError: the row has another length, or an id outside the vocabulary; it cannot be written.
        """
        row, documents = packed
        if len(row.tokens) != self.sequence_length:
            raise JaxptError(
                f"{self.path}: a row has {len(row.tokens)} tokens, the source's are {self.sequence_length}"
            )
        if row.tokens.max() >= self.vocab_size or row.tokens.min() < 0:
            raise JaxptError(f"{self.path}: token id {row.tokens.max()} is outside the vocabulary of {self.vocab_size}")
        try:
            self._writer_with_room().write(records.encode(row, self.dtype))
        except RuntimeError as error:  # ArrayRecord's, also of a full disk
            raise storage_error(self.path, error) from error
        self._in_shard[-1] += 1
        self._fill.append(int(row.starts[-1]))
        self._segments.append(self._segments[-1] + len(documents))
        self._segment_document.append(np.asarray(documents, np.uint32))

    def _writer_with_room(self) -> ArrayRecordWriter:
        """The writer of the shard at hand, or of the next one where that is full."""
        if self._writer is not None and self._in_shard[-1] < self._rows_per_shard:
            return self._writer
        self._close_shard()
        name = f"rows-{len(self._in_shard):05d}.array_record"
        self._writer = ArrayRecordWriter(str(self._partial / name), "group_size:1,uncompressed")
        self._in_shard.append(0)
        return self._writer

    def _close_shard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except RuntimeError as error:
                raise storage_error(self.path, error) from error

    def finish(
        self,
        document_ids: Sequence[bytes],
        document_tokens: Sequence[int],
        tokenizer_fingerprint: str,
        options: Mapping[str, object],
        tokenizer: Tokenizer | None = None,
    ) -> "PackedSource":
        """Writes the columns and, last, `source.json`; renames the directory to its final name.

        Args:
            document_ids: 16 bytes per document, by document number.
            document_tokens: tokens of each document.
            tokenizer_fingerprint: of the tokenizer that made the ids.
            options: packer and its options, BOS/EOS policy, text field, …: what decided the rows.
            tokenizer: that one, to be carried along; None: the source carries none.

        Raises:
            JaxptError: no rows were written, or the disk is full.
        """
        if self._writer is None:
            also = f" besides {self.left_out:,} records that are not read" if self.left_out else ""
            raise JaxptError(f"{self.path}: nothing to pack, the input holds no text{also}")
        self._close_shard()
        try:
            if tokenizer is not None:
                tokenizer.save(self._partial / "tokenizer")
                write_digests(self._partial, [f"tokenizer/{file.name}" for file in tokenizer.files])
            self._write_facts(document_ids, document_tokens, tokenizer_fingerprint, options)
        except OSError as error:
            raise storage_error(self.path, error) from error
        return PackedSource.open(self.path)

    def _write_facts(
        self,
        document_ids: Sequence[bytes],
        document_tokens: Sequence[int],
        tokenizer_fingerprint: str,
        options: Mapping[str, object],
    ) -> None:
        columns: dict[str, np.ndarray] = {
            "row_fill": np.asarray(self._fill, np.uint32),
            "row_segments": np.asarray(self._segments, np.uint64),
            "segment_document": np.concatenate(self._segment_document),
            "document_id": np.frombuffer(b"".join(document_ids), "<u8").reshape(-1, 2),
            "document_tokens": np.asarray(document_tokens, np.uint32),
        }
        for name, column in columns.items():
            np.save(self._partial / f"{name}.npy", column)
        files = [self._partial / f"rows-{i:05d}.array_record" for i in range(len(self._in_shard))]
        files += [self._partial / f"{name}.npy" for name in COLUMNS]
        counts = [*self._in_shard, *(len(columns[n]) for n in COLUMNS)]
        facts: SourceJson = {
            "format": FORMAT,
            "sequence_length": self.sequence_length,
            "dtype": self.dtype,
            "rows": len(self._fill),
            "tokens": int(columns["row_fill"].sum()),
            "documents": len(document_ids),
            "vocab_size": self.vocab_size,
            "tokenizer_fingerprint": tokenizer_fingerprint,
            "options": options,
            "files": [
                {"name": f.name, "bytes": f.stat().st_size, "sha256": sha256(f), "records": n}
                for f, n in zip(files, counts)
            ],
        }
        whole = {**facts, DIGEST: canonical_digest(json.loads(json.dumps(facts)))}
        (self._partial / "source.json").write_text(json.dumps(whole, indent=1))
        self._partial.rename(self.path)


class PackedSource:
    """A packed source opened for reading; columns are memory-mapped, rows are read on demand.

    `path` is a `Path` on this machine, or the address (`gs://…`) as text.
    """

    def __init__(self, path: Path | str, facts: SourceJson, cache: Path):
        """Use `open`."""
        self.path, self.facts, self._cache = path, facts, cache
        self.name = str(path).rsplit("/", 1)[-1]
        self.rows: int = facts["rows"]
        self.sequence_length: int = facts["sequence_length"]
        self.vocab_size: int = facts["vocab_size"]
        self.tokens: int = facts["tokens"]
        self.documents: int = facts["documents"]
        self.tokenizer_fingerprint: str = facts["tokenizer_fingerprint"]
        self.fingerprint = canonical_digest(facts)
        shards = [f for f in facts["files"] if f["name"].endswith(".array_record")]
        self._shards = Shards([f"{path}/{f['name']}" for f in shards], [f["records"] for f in shards])
        self._columns: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | Path, cache: Path | None = None) -> "PackedSource":
        """Opens a source, checking that every file is there, whole, and counts as `source.json` says.

        Args:
            path: a directory of this machine, or its address on a file system that fsspec knows (`gs://…`).
            cache: where columns of a remote source are copied to on first use (None: `default_cache()`); its rows are
                read where they are.

        Raises:
            JaxptError: no packed source, an unknown format, a damaged `source.json`, a file missing, truncated or of
                another count.
        """
        path = str(path).rstrip("/") if is_remote(path) else Path(path)
        file = f"{path}/source.json"
        fs, inner = file_system(str(path))
        if not fs.isfile(f"{inner}/source.json"):
            hint = "it was not packed to the end: no source.json"
            if not fs.isdir(inner):
                hint = "it does not exist" if is_remote(path) else f"it {absent(path)}"
            raise JaxptError(f"{path} is not a packed source ({hint}); make it with jaxpt-data pack")
        try:
            values = json.loads(fs.cat_file(f"{inner}/source.json"))
            if values["format"] != FORMAT:
                raise JaxptError(
                    f"{file}: format {values['format']} is not read by this jaxpt (format {FORMAT}); pack again"
                )
            facts = _checked(file, values)
            sizes = {f["name"].rsplit("/", 1)[-1]: f["size"] for f in fs.ls(inner, detail=True)}
            for entry in facts["files"]:
                size = sizes.get(entry["name"], 0)
                if size != entry["bytes"]:
                    raise JaxptError(
                        f"{path}/{entry['name']} has {size:,} bytes, source.json says {entry['bytes']:,}; "
                        f"pack the source again"
                    )
            source = cls(path, facts, cache or default_cache())
        except JaxptError:
            raise
        except OSError as e:
            raise JaxptError(f"{file} cannot be read ({e.strerror or e}); make it readable and try again") from e
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise JaxptError(f"{file} is broken ({type(e).__name__}: {e}); pack the source again") from e
        if len(source._shards) != source.rows or len(source.column("row_fill")) != source.rows:
            raise JaxptError(f"{path} holds {len(source._shards):,} rows, source.json says {source.rows:,}; pack again")
        return source

    def column(self, name: str) -> np.ndarray:
        """Returns one of `COLUMNS`, memory-mapped; its content is checked when a process first reads it.

        `row_fill [rows]` real tokens; `row_segments [rows + 1]` offsets into `segment_document`, the document number of
        each segment; `document_id [documents, 2]` uint64, `document_tokens [documents]`.

        Raises:
            JaxptError: it is not what was packed, or cannot be read.
        """
        if name not in self._columns:
            self._columns[name] = self._open_column(name)
        return self._columns[name]

    def _open_column(self, name: str) -> np.ndarray:
        entry = next((f for f in self.facts["files"] if f["name"] == f"{name}.npy"), None)
        if entry is None:
            raise JaxptError(f"{self.path}/source.json lists no {name}.npy; pack the source again")
        address = f"{self.path}/{name}.npy"
        way_out = "pack the source again"
        file = Path(address)
        if is_remote(address):
            file = local_copy(address, entry["bytes"], entry["sha256"], self._cache)
            way_out = "remove it, and it is copied again"
        try:
            if not _is_intact(file, entry["sha256"]):
                raise JaxptError(f"{file} is damaged: it is not what source.json says; {way_out}")
            return np.load(file, mmap_mode="r")
        except OSError as e:
            raise JaxptError(f"{file} cannot be read ({e.strerror}); make it readable and try again") from e

    @property
    def mean_fill(self) -> float:
        """Real tokens per row slot, 0 … 1."""
        return self.tokens / (self.rows * self.sequence_length)

    def records(self, rows: Sequence[int]) -> list[bytes]:
        """Returns the stored bytes of the given rows, in their order."""
        return self._shards.read(rows)

    def read(self, rows: Sequence[int]) -> "Rows[np.ndarray]":
        """Returns the batch arrays of the given rows, as `jaxpt.data.records.decode` describes them."""
        return records.decode(self.records(rows), self.sequence_length, self.facts["dtype"])

    def row_documents(self, row: int) -> list[bytes]:
        """Returns the 16-byte ids of the documents with a segment in `row`, in order."""
        first, last = (int(x) for x in self.column("row_segments")[row : row + 2])
        numbers = self.column("segment_document")[first:last]
        return [self.column("document_id")[n].tobytes() for n in numbers]

    def tokenizer(self) -> Tokenizer | None:
        """Returns the tokenizer that the source carries; None where it carries none, as those of earlier versions.

        Raises:
            JaxptError: its files are damaged, or those of another tokenizer than the one that made the ids.
        """
        return carried_tokenizer(self.path, self.tokenizer_fingerprint, self._cache)

    def verify(self) -> None:
        """Rehashes every file, the tokenizer's too.

        Raises:
            JaxptError: a file's content is not what was packed.
        """
        for entry in self.facts["files"]:
            if file_digest(f"{self.path}/{entry['name']}") != entry["sha256"]:
                raise JaxptError(f"{self.path}/{entry['name']} was changed since it was packed; pack the source again")
        self.tokenizer()


_intact: set[tuple[str, str, int, int, int]] = set()  # columns that this process has checked


def _is_intact(file: Path, digest: str) -> bool:
    """Whether a file has the SHA-256 `digest`; read once in a process, unless it changes."""
    stat = file.stat()
    state = (str(file.absolute()), digest, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if state not in _intact:
        if sha256(file) != digest:
            return False
        _intact.add(state)
    return True


def _checked(file: str, values: Mapping[str, object]) -> SourceJson:
    """Returns what source.json says without its digest, which is compared."""
    facts = {key: value for key, value in values.items() if key != DIGEST}
    if odd := facts.keys() - SourceJson.__annotations__.keys():
        raise JaxptError(f"{file} says {min(odd)!r}, which this jaxpt does not know: damaged, or of a later version")
    if DIGEST not in values:
        report_without_digests(file)
    elif values[DIGEST] != canonical_digest(facts):
        raise JaxptError(f"{file} is damaged: its content is not what {DIGEST} says; pack the source again")
    return cast(SourceJson, facts)
