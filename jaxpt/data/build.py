"""Text files to a packed source: read, tokenize, pack, write, in one pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxpt.data.packed import PackedSource, PackedWriter
from jaxpt.data.packing import PACKERS, Document
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.data.tokenize import Selection, Tokenized, tokenize
from jaxpt.errors import JaxptError, nearest

Report = Callable[[int, int], None]  # (documents, tokens) done since the last call


def build(
    inputs: str | Sequence[str],
    output: str | Path,
    tokenizer: Any,
    sequence_length: int,
    *,
    packer: str = "best_fit",
    text_field: str = "text",
    bos: bool = False,
    eos: bool = True,
    selection: Selection | None = None,
    rows_per_shard: int = 65_536,
    report: Report = lambda documents, tokens: None,
) -> PackedSource:
    """Packs the documents of text files into rows of `sequence_length` tokens.

    Args:
        inputs: a glob, directory or file, or a list of them.
        output: the packed source's directory; must not exist.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        sequence_length: tokens in a row.
        packer: "best_fit" (documents are cut only where longer than a row) or "concat" (no padding).
        text_field: where a document's text is.
        bos: begin each document with BOS.
        eos: end each document with EOS.
        selection: which documents are taken.
        rows_per_shard: rows in one file.
        report: called now and then with the documents and tokens done since.

    Returns:
        The packed source, opened.

    Raises:
        JaxptError: bad input, named; nothing is left at `output` then.
    """
    if packer not in PACKERS:
        raise JaxptError(f"--packer={packer} is unknown{nearest(packer, PACKERS)}; there are {', '.join(PACKERS)}")
    selection = selection or Selection()
    fields = (text_field, selection.group_field) if selection.group_field else (text_field,)
    files = [f for pattern in ([inputs] if isinstance(inputs, str) else inputs) for f in list_files(pattern)]
    book = Tokenized([], [])
    options = {"text_field": text_field, "bos": bos, "eos": eos, "selection": selection}
    documents = _counted(tokenize(_read(files, fields), tokenizer, book, **options), report)
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else 0
    with PackedWriter(output, sequence_length, tokenizer.vocab_size, rows_per_shard=rows_per_shard) as writer:
        for packed in PACKERS[packer](documents, sequence_length, pad):
            writer.write(packed)
        facts = {"packer": packer, **options, "selection": asdict(selection), "text_bytes": book.bytes}
        return writer.finish(book.ids, book.lengths, tokenizer.fingerprint, facts)


def _read(files: Sequence[str], fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield from read_documents(file, fields)


def _counted(documents: Iterator[Document], report: Report) -> Iterator[Document]:
    for document in documents:
        report(1, len(document.tokens))
        yield document
