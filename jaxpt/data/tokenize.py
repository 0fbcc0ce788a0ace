"""Text to tokenized documents: all cores, in the order of the files, whichever batch a document falls in."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpt.config.choice import option
from jaxpt.data.documents import Fields, document_id, held_out
from jaxpt.data.packing import Document
from jaxpt.errors import JaxptError
from jaxpt.tokenizers.interface import Tokenizer


@dataclass(frozen=True)
class Selection:
    """Which documents a source takes: all, the held-out share, or the rest.

    `part` is "all", "train" or "held_out"; `share` the held-out share; `group_field` names a field whose value decides
    for all its documents together (None: the document's id).
    """

    part: str = option("all", "all, train or held_out")
    share: float = option(0.0, "the held-out share, 0 … 1")
    group_field: str | None = option(None, "a field whose value decides for all its documents together")

    def __post_init__(self) -> None:
        if self.part not in ("all", "train", "held_out"):
            raise JaxptError(f"part={self.part} is not one of all, train, held_out")
        if not 0 <= self.share < 1:
            raise JaxptError(f"the held-out share {self.share} must be at least 0 and below 1")
        if (self.part == "all") != (self.share == 0):
            raise JaxptError(
                f"part={self.part} does not go with a held-out share of {self.share}; give part=train or part=held_out "
                f"and a share above 0, or neither"
            )

    def takes(self, document: Fields, identity: bytes) -> bool:
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

    `left_out` counts conversations in which the assistant says nothing; `control` counts
    control tokens that texts spell.
    """

    ids: list[bytes]
    lengths: list[int]
    text_bytes: int = 0
    left_out: int = 0
    control: int = 0

    def add(self, identity: bytes, ids: np.ndarray, text_bytes: int) -> Document:
        """Notes a text and returns it as the next document, every token of which may be a target."""
        self.ids.append(identity)
        self.lengths.append(len(ids))
        self.text_bytes += text_bytes
        return Document(ids, np.ones(len(ids), bool), len(self.ids) - 1)


EOS_TOKEN = "what ends each document instead of EOS: a token's text, or several written together"
Encoded = tuple[list[np.ndarray], int]  # the ids of each text, and how many control tokens the texts spell
BATCH_CHARS = 4 << 20  # texts of so many characters are encoded together at most, however few they are


def encoded(
    documents: Iterable[Fields],
    tokenizer: Tokenizer,
    *,
    text_field: str = "text",
    bos: bool = False,
    eos: bool = True,
    selection: Selection = ALL,
    end: Sequence[int] = (),
    batch: int = 512,
    control_tokens: bool = False,
    met: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[Fields, bytes, np.ndarray]]:
    """Yields each document that is taken with its id and its tokens; a text without tokens is left out.

    The next batch is encoded by the tokenizer's own threads while the one before is used; batches never change a token.

    Args:
        documents: dicts with `text_field`.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        text_field: where the text is.
        bos: begin each document with BOS.
        eos: end each document with EOS (it belongs to its document).
        selection: which documents are taken.
        end: ids that end each document instead of EOS.
        batch: documents encoded together, at most.
        control_tokens: read control tokens that a text spells as such.
        met: called with how many control tokens the texts of a batch spell.

    Raises:
        JaxptError: a text that is not a string.
    """

    last = np.asarray(end, np.int32)

    def encode(taken: list[tuple[Fields, bytes]]) -> Encoded:
        texts = [str(document[text_field]) for document, _ in taken]
        ids = tokenizer.encode_batch(texts, bos=bos, eos=eos and not len(last), control_tokens=control_tokens)
        return [np.append(i, last) for i in ids] if len(last) else ids, tokenizer.count_control(texts)

    with ThreadPoolExecutor(1) as pool:
        ahead: deque[tuple[list[tuple[Fields, bytes]], Future[Encoded]]] = deque()
        for taken in _batches(documents, text_field, selection, batch):
            is_long = len(str(taken[-1][0][text_field])) > BATCH_CHARS  # encoding takes some 60 bytes a character
            while ahead and is_long:
                yield from _joined(*ahead.popleft(), met)
            ahead.append((taken, pool.submit(encode, taken)))
            if len(ahead) > 1 or is_long:
                yield from _joined(*ahead.popleft(), met)
        while ahead:
            yield from _joined(*ahead.popleft(), met)


def _joined(
    taken: list[tuple[Fields, bytes]], made: Future[Encoded], met: Callable[[int], object]
) -> Iterator[tuple[Fields, bytes, np.ndarray]]:
    encoded, count = made.result()
    met(count)
    for (document, identity), ids in zip(taken, encoded, strict=True):
        if len(ids):
            yield document, identity, ids


def _batches(
    documents: Iterable[Fields], text_field: str, selection: Selection, batch: int
) -> Iterator[list[tuple[Fields, bytes]]]:
    taken: list[tuple[Fields, bytes]] = []
    size = 0
    for document in documents:
        text = document[text_field]
        if not isinstance(text, str):
            raise JaxptError(f"the field {text_field!r} of a document is {type(text).__name__}, not text")
        if not text:
            continue
        identity = document_id(text)
        if selection.takes(document, identity):
            taken.append((document, identity))
            size += len(text)
        if len(taken) == batch or size >= BATCH_CHARS:
            yield taken
            taken, size = [], 0
    if taken:
        yield taken


def tokenize(
    documents: Iterable[Fields],
    tokenizer: Tokenizer,
    book: Tokenized,
    *,
    text_field: str = "text",
    bos: bool = False,
    eos: bool = True,
    selection: Selection | None = None,
    end: Sequence[int] = (),
    control_tokens: bool = False,
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
        end: ids that end each document instead of EOS.
        control_tokens: read control tokens that a text spells as such.

    Raises:
        JaxptError: a text that is not a string.
    """

    def met(count: int) -> None:
        book.control += count

    where: dict[str, Any] = {"text_field": text_field, "bos": bos, "eos": eos, "selection": selection or ALL}
    where |= {"end": end, "control_tokens": control_tokens, "met": met}
    for document, identity, ids in encoded(documents, tokenizer, **where):
        yield book.add(identity, ids, len(str(document[text_field]).encode("utf-8", "surrogatepass")))
