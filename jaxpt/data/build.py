"""Documents to a packed source: read, tokenize, pack, write, in one pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jaxpt.data.origins import Origin, open_origin
from jaxpt.data.packed import PackedSource, PackedWriter
from jaxpt.data.packing import PACKERS, Document
from jaxpt.data.tokenize import ALL, Selection, Tokenized, tokenize
from jaxpt.errors import JaxptError, nearest

Report = Callable[[int, int], None]  # (documents, tokens) done since the last call


@dataclass(frozen=True)
class Packing:
    """How documents become rows: all that decides a packed source besides its text, its tokenizer and its length.

    `field` is where a document's text is. `packer` is "best_fit" (documents are cut only where longer than a row) or
    "concat" (no padding). `bos` and `eos` begin and end each document. `selection` says which documents are taken.
    """

    kind: Literal["text"] = "text"
    field: str = "text"
    packer: str = "best_fit"
    bos: bool = False
    eos: bool = True
    selection: Selection = ALL

    def __post_init__(self) -> None:
        if self.packer not in PACKERS:
            known = ", ".join(PACKERS)
            raise JaxptError(f"packer={self.packer} is unknown{nearest(self.packer, PACKERS)}; there are {known}")

    @property
    def fields(self) -> tuple[str, ...]:
        """What every document must have."""
        group = self.selection.group_field
        return (self.field, group) if group else (self.field,)


def build(
    inputs: str | Sequence[str] | Origin,
    output: str | Path,
    tokenizer: Any,
    sequence_length: int,
    packing: Packing | None = None,
    *,
    rows_per_shard: int = 65_536,
    report: Report = lambda documents, tokens: None,
) -> PackedSource:
    """Packs documents into rows of `sequence_length` tokens.

    Args:
        inputs: an origin, or what `open_origin` takes: a glob, directory or file, or a list of them.
        output: the packed source's directory; must not exist.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        sequence_length: tokens in a row.
        packing: how; None: as `Packing()` says.
        rows_per_shard: rows in one file.
        report: called now and then with the documents and tokens done since.

    Returns:
        The packed source, opened.

    Raises:
        JaxptError: bad input, named; nothing is left at `output` then.
    """
    packing = packing or Packing()
    origin = open_origin(inputs) if isinstance(inputs, str | Sequence) else inputs
    book = Tokenized([], [])
    options = {"text_field": packing.field, "bos": packing.bos, "eos": packing.eos, "selection": packing.selection}
    documents = _counted(tokenize(origin.documents(packing.fields), tokenizer, book, **options), report)
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else 0
    with PackedWriter(output, sequence_length, tokenizer.vocab_size, rows_per_shard=rows_per_shard) as writer:
        for packed in PACKERS[packing.packer](documents, sequence_length, pad):
            writer.write(packed)
        return writer.finish(
            book.ids, book.lengths, tokenizer.fingerprint, {**asdict(packing), "text_bytes": book.bytes}
        )


def _counted(documents: Iterator[Document], report: Report) -> Iterator[Document]:
    for document in documents:
        report(1, len(document.tokens))
        yield document
