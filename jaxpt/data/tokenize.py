"""Text to tokenized documents: all cores, in the order of the files, whichever batch a document falls in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpt.data.documents import document_id, held_out
from jaxpt.data.packing import Document
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Selection:
    """Which documents a source takes: all, the held-out share, or the rest.

    `part` is "all", "train" or "held_out"; `share` the held-out share; `group_field` names a field whose value decides
    for all its documents together (None: the document's id).
    """

    part: str = "all"
    share: float = 0.0
    group_field: str | None = None

    def __post_init__(self) -> None:
        if self.part not in ("all", "train", "held_out"):
            raise JaxptError(f"part={self.part} is not one of all, train, held_out")
        if not 0 <= self.share < 1:
            raise JaxptError(f"the held-out share {self.share} must be at least 0 and below 1")

    def takes(self, document: dict[str, Any], identity: bytes) -> bool:
        """Whether `document`, whose id is `identity`, is taken."""
        if self.part == "all":
            return True
        if self.group_field is not None and self.group_field not in document:
            raise JaxptError(f"group_field={self.group_field}: a document lacks it; it has {', '.join(document)}")
        key = identity if self.group_field is None else str(document[self.group_field])
        return held_out(key, self.share) == (self.part == "held_out")


ALL = Selection()


@dataclass
class Tokenized:
    """What tokenizing leaves behind beside the documents: ids and lengths by document number, bytes of text.

    `left_out` counts conversations in which the assistant says nothing.
    """

    ids: list[bytes]
    lengths: list[int]
    bytes: int = 0
    left_out: int = 0


def tokenize(
    documents: Iterable[dict[str, Any]],
    tokenizer: Any,
    book: Tokenized,
    *,
    text_field: str = "text",
    bos: bool = False,
    eos: bool = True,
    selection: Selection | None = None,
    batch: int = 512,
) -> Iterator[Document]:
    """Yields the documents as tokens, numbered as they come; fills `book`.

    Args:
        documents: dicts with `text_field`.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        book: receives id and length of each document, and the UTF-8 bytes of text.
        text_field: where the text is.
        bos: begin each document with BOS.
        eos: end each document with EOS (it belongs to its document).
        selection: which documents are taken.
        batch: documents encoded together.

    Raises:
        JaxptError: a text that is no string.
    """
    selection = selection or Selection()
    waiting: list[str] = []

    def flush() -> Iterator[Document]:
        for text, ids in zip(waiting, tokenizer.encode_batch(waiting, bos=bos, eos=eos)):
            if len(ids):
                book.ids.append(document_id(text))
                book.lengths.append(len(ids))
                book.bytes += len(text.encode("utf-8", "surrogatepass"))
                yield Document(ids, np.ones(len(ids), bool), len(book.ids) - 1)
        waiting.clear()

    for document in documents:
        text = document[text_field]
        if not isinstance(text, str):
            raise JaxptError(f"the field {text_field!r} of a document is {type(text).__name__}, not text")
        if text and selection.takes(document, document_id(text)):
            waiting.append(text)
        if len(waiting) == batch:
            yield from flush()
    yield from flush()
