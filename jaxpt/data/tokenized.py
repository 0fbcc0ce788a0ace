"""Tokenized documents at rest: encoded once, packed at any sequence length without the tokenizer.

A folder of Parquet shards (`id, tokens, text_bytes` and the fields that were kept), `tokenizer/`, which packed sources
made of it carry on, and, written last, `tokenized.json`: what decided the tokens, and the shards with their counts.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxpt.data.carried import carried_tokenizer
from jaxpt.data.packing import Document
from jaxpt.data.records import DTYPES, token_dtype
from jaxpt.data.tokenize import ALL, Selection, Tokenized
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest, report_without_digests
from jaxpt.files.partial import sha256
from jaxpt.tokenizers.interface import Tokenizer

FORMAT = 1
NOTE = "tokenized.json"
GROUP_TOKENS = 1 << 22  # tokens in one row group: what is held in memory


class TokenizedWriter:
    """Writes one shard; the caller gives the file its name when it is whole."""

    def __init__(self, file: Path, vocab_size: int, fields: Sequence[str] = ()):
        """Opens `file`; `fields` are kept of each document, as text."""
        self._kind = np.dtype(DTYPES[token_dtype(vocab_size)])
        self._fields = tuple(fields)
        kind = pa.from_numpy_dtype(self._kind)
        columns = [("id", pa.binary(16)), ("tokens", pa.large_list(kind)), ("text_bytes", pa.int64())]
        self._schema = pa.schema([*columns, *((name, pa.string()) for name in self._fields)])
        how: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": list(self._fields)}
        self._writer = pq.ParquetWriter(file, self._schema, **how)
        self._clear()

    def _clear(self) -> None:
        self._ids: list[bytes] = []
        self._tokens: list[np.ndarray] = []
        self._bytes: list[int] = []
        self._kept: list[tuple[str | None, ...]] = []
        self._size = 0

    def write(self, identity: bytes, tokens: np.ndarray, text_bytes: int, kept: Sequence[str | None] = ()) -> None:
        """Adds a document."""
        self._ids.append(identity)
        self._tokens.append(tokens.astype(self._kind))
        self._bytes.append(text_bytes)
        self._kept.append(tuple(kept))
        self._size += len(tokens)
        if self._size >= GROUP_TOKENS:
            self._flush()

    def _flush(self) -> None:
        if not self._ids:
            return
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in self._tokens])])
        tokens = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate(self._tokens)))
        columns = [pa.array(self._ids, pa.binary(16)), tokens, pa.array(self._bytes, pa.int64())]
        columns += [pa.array([kept[i] for kept in self._kept], pa.string()) for i in range(len(self._fields))]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=len(self._ids))
        self._clear()

    def close(self) -> None:
        """Finishes the file."""
        self._flush()
        self._writer.close()


class TokenizedDocuments:
    """A folder of tokenized documents, in the order of its shards."""

    unit = "tok"

    def __init__(self, path: str | Path):
        """Reads what the folder says of itself.

        Raises:
            JaxptError: no such folder, or one that was not finished, is of another format or damaged.
        """
        self.path = Path(path)
        self._intact: set[str] = set()
        note = self.path / NOTE
        if not note.is_file():
            raise JaxptError(f"{path} holds no {NOTE}: it was not tokenized to the end; run jaxpt-data tokenize again")
        try:
            self.facts: dict[str, Any] = json.loads(note.read_bytes())
            if self.facts.get("format") != FORMAT:
                raise JaxptError(f"{note}: format {self.facts.get('format')} is not read by this jaxpt; tokenize again")
            self.size = sum(shard["tokens"] for shard in self.facts["shards"])
        except JaxptError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise JaxptError(f"{note} is broken ({type(error).__name__}: {error}); tokenize again") from error
        digest = self.facts.pop("digest", None)
        if digest is None and not any("sha256" in shard for shard in self.facts["shards"]):
            report_without_digests(note)
        elif digest != canonical_digest(self.facts):
            raise JaxptError(f"{note} is damaged: its content is not what its digest says; tokenize again")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that made the tokens; None where the folder holds none.

        Raises:
            JaxptError: its files are damaged, or those of another.
        """
        return carried_tokenizer(self.path, self.facts["tokenizer_fingerprint"], self.path)

    def values(self, field: str, selection: Selection = ALL) -> list[str]:
        """Returns the values of a kept field among the documents that are taken, sorted; "none" where there is none.

        Raises:
            JaxptError: the field was not kept, or a shard is damaged.
        """
        fields = [field, *([selection.group_field] if selection.group_field else [])]
        for name in fields:
            self._check(name)
        names: set[str] = set()
        for shard in self.facts["shards"]:
            table = pq.read_table(self._file(shard), columns=["id", *dict.fromkeys(fields)])
            names |= {row[field] or "none" for row in table.to_pylist() if selection.takes(row, row["id"])}
        return sorted(names)

    def _file(self, shard: Mapping[str, Any]) -> Path:
        """The file of a shard, which is what was written: hashed when it is first read."""
        file = self.path / shard["name"]
        if shard["name"] not in self._intact and "sha256" in shard:
            try:
                intact = sha256(file) == shard["sha256"]
            except OSError as error:
                raise JaxptError(f"{file} cannot be read ({error.strerror}); tokenize again") from error
            if not intact:
                raise JaxptError(f"{file} is damaged: it is not what {NOTE} says; remove it and tokenize again")
        self._intact.add(shard["name"])
        return file

    def _check(self, field: str) -> None:
        if field not in self.facts["fields"]:
            kept = ", ".join(self.facts["fields"]) or "none"
            raise JaxptError(f"{self.path} keeps no field {field!r} (kept: {kept}); tokenize with --keep={field}")

    def documents(
        self, book: Tokenized, selection: Selection, where: tuple[str, str] | None = None
    ) -> Iterator[Document]:
        """Yields the documents that are taken, numbered as they come; fills `book`.

        Args:
            book: receives id and length of each document, and the bytes of text.
            selection: which documents are taken.
            where: only documents whose kept field has this value, `(field, value)`.
        """
        fields = [*([where[0]] if where else []), *([selection.group_field] if selection.group_field else [])]
        for field in fields:
            self._check(field)
        columns = ["id", "tokens", "text_bytes", *dict.fromkeys(fields)]
        for shard in self.facts["shards"]:
            with pq.ParquetFile(self._file(shard)) as file:
                for group in range(file.num_row_groups):
                    for batch in file.read_row_group(group, columns=columns).to_batches():
                        yield from self._batch(batch, book, selection, where)

    @staticmethod
    def _batch(
        batch: pa.RecordBatch, book: Tokenized, selection: Selection, where: tuple[str, str] | None
    ) -> Iterator[Document]:
        lists = batch.column("tokens")
        tokens, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
        ids, sizes = batch.column("id").to_pylist(), batch.column("text_bytes").to_pylist()
        names = [n for n in batch.schema.names if n not in ("id", "tokens", "text_bytes")]
        kept = {name: batch.column(name).to_pylist() for name in names}
        for i, identity in enumerate(ids):
            if where and (kept[where[0]][i] or "none") != where[1]:
                continue
            if selection.takes({name: column[i] for name, column in kept.items()}, identity):
                yield book.add(identity, tokens[offsets[i] : offsets[i + 1]], sizes[i])
