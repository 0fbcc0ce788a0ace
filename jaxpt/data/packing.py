"""Documents of any length into rows of exactly S tokens."""

import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from jaxpt.data.records import Row


@dataclass(frozen=True)
class Document:
    """A tokenized document: `tokens [n]`, `mask [n]` bool (may be a target), its number in the source."""

    tokens: np.ndarray
    mask: np.ndarray
    number: int


@dataclass(frozen=True)
class DocumentPart:
    """Part of a document that lies in one row."""

    document: Document
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


Packed = tuple[Row, list[int]]  # a row and the number of each segment's document


def _row(pieces: list[DocumentPart], length: int, pad: int) -> Packed:
    tokens, mask = np.full(length, pad, np.int64), np.ones(length, bool)
    starts, at = [], 0
    for piece in pieces:
        starts.append(at)
        tokens[at : at + len(piece)] = piece.document.tokens[piece.start : piece.stop]
        mask[at : at + len(piece)] = piece.document.mask[piece.start : piece.stop]
        at += len(piece)
    return Row(tokens, np.array([*starts, at]), mask), [p.document.number for p in pieces]


def concat_and_split(documents: Iterable[Document], length: int, pad: int) -> Iterator[Packed]:
    """Lays documents end to end and cuts every `length` tokens; only the last row is padded."""
    pieces: list[DocumentPart] = []
    free = length
    for document in documents:
        start = 0
        while start < len(document.tokens):
            stop = min(start + free, len(document.tokens))
            pieces.append(DocumentPart(document, start, stop))
            free -= stop - start
            start = stop
            if not free:
                yield _row(pieces, length, pad)
                pieces, free = [], length
    if pieces:
        yield _row(pieces, length, pad)


def best_fit(documents: Iterable[Document], length: int, pad: int, *, window: int = 4096) -> Iterator[Packed]:
    """Best-fit-decreasing packing (Ding et al. 2024, "Fewer truncations"): a document is cut only if longer than a row.

    Args:
        documents: in the order of the source.
        length: tokens in a row.
        pad: token id of the padding.
        window: how many rows' worth of tokens are packed together; bounds memory, and decides the result.
    """
    pending: list[DocumentPart] = []
    size = 0
    for document in documents:
        for start in range(0, len(document.tokens), length):
            pending.append(DocumentPart(document, start, min(start + length, len(document.tokens))))
        size += len(document.tokens)
        if size >= window * length:
            yield from _pack_window(pending, length, pad)
            pending, size = [], 0
    yield from _pack_window(pending, length, pad)


def _pack_window(pieces: list[DocumentPart], length: int, pad: int) -> Iterator[Packed]:
    order = sorted(range(len(pieces)), key=lambda i: (-len(pieces[i]), i))
    rows: list[list[DocumentPart]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for i in order:
        n = len(pieces[i])
        at = bisect.bisect_left(room, (n, -1))
        if at == len(room):
            rows.append([])
            free, row = length, len(rows) - 1
        else:
            free, row = room.pop(at)
        rows[row].append(pieces[i])
        if free > n:
            bisect.insort(room, (free - n, row))
    for whole in rows:
        yield _row(whole, length, pad)


PACKERS: dict[str, Callable[..., Iterator[Packed]]] = {"best_fit": best_fit, "concat": concat_and_split}
