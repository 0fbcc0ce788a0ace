"""How continuations are put into rows: each context once, its continuations behind it; pure arithmetic, no arrays of a
device."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxpt.generation.passes import PADDING
from jaxpt.generation.prefixes import CHUNK, common_length
from jaxpt.generation.shapes import power_of_two, rounded

LEAST_PREFIX = 32  # tokens that several contexts share before a prefix of their own pays


class Asked(NamedTuple):
    """A continuation to judge: its number, and the tokens `context` (at least one) and `continuation`."""

    number: int
    context: tuple[int, ...]
    continuation: tuple[int, ...]
    first: int = 0  # which token of the asked continuation this piece begins with


class ContextRow(NamedTuple):
    """A context with all of its continuations; the first `shared` tokens are in a prefix."""

    context: tuple[int, ...]
    asked: list[Asked]
    shared: int = 0

    @property
    def length(self) -> int:
        """Tokens in the row: a continuation's last token is judged, not read."""
        return len(self.context) - self.shared + sum(len(a.continuation) - 1 for a in self.asked)


class PlacedRows(NamedTuple):
    """Rows as arrays `[B, S]`; of each judged token the flat place that predicts it, the token, its continuation's
    number and its place in that continuation, each `[M]`."""

    tokens: np.ndarray
    positions: np.ndarray
    branches: np.ndarray
    places: np.ndarray
    targets: np.ndarray
    numbers: np.ndarray
    nth: np.ndarray


def pieces(asked: Asked) -> Iterator[Asked]:
    """Yields a continuation in pieces of at most `CHUNK` tokens, each behind all that comes before it."""
    for at in range(0, len(asked.continuation), CHUNK):
        part = asked.continuation[at : at + CHUNK]
        yield Asked(asked.number, asked.context + asked.continuation[:at], part, at)


def rows_with(asked: Sequence[Asked]) -> list[ContextRow]:
    """Returns rows, one for each different context (more where its continuations are too many), sorted by tokens."""
    by_context: dict[tuple[int, ...], list[Asked]] = {}
    for whole in asked:
        for a in pieces(whole):
            by_context.setdefault(a.context, []).append(a)
    rows = []
    for context in sorted(by_context):
        row: list[Asked] = []
        for a in by_context[context]:
            if row and sum(len(b.continuation) for b in [*row, a]) > CHUNK:
                rows.append(ContextRow(context, row))
                row = []
            row.append(a)
        rows.append(ContextRow(context, row))
    return rows


def shared_runs(rows: Sequence[ContextRow]) -> Iterator[tuple[tuple[int, ...], list[ContextRow]]]:
    """Yields (prefix, rows that begin with it); without a prefix, once and last, the rows that share too little.

    Neighbours of `rows`, which are sorted, share a prefix while it keeps half its length from one to the next, and a
    row that is too long for one pass gets a prefix of its own.
    """
    alone: list[ContextRow] = []
    at = 0
    while at < len(rows):
        common, stop = len(rows[at].context) - 1, at + 1
        while stop < len(rows):
            now = min(common, common_length(rows[stop - 1].context, rows[stop].context), len(rows[stop].context) - 1)
            if now < max(LEAST_PREFIX, common // 2):
                break
            common, stop = now, stop + 1
        run = list(rows[at:stop])
        at = stop
        long = max(len(row.context) for row in run) - 1 > CHUNK
        if len(run) == 1:
            common = max(0, (common - 1) // CHUNK * CHUNK) if long else 0
        if not common:
            alone += run
        elif common >= CHUNK or (len(run) - 1) * common >= 2 * CHUNK or not long:
            yield run[0].context[:common], [row._replace(shared=common) for row in run]
        else:
            alone += run
    if alone:
        yield (), alone


def batches(rows: Sequence[ContextRow], budget: int, ways: int = 1) -> Iterator[tuple[list[ContextRow], int, int]]:
    """Yields (rows, B, S): rows of similar length, so many that B · S is at most `budget` (or one row for each way).

    B is a power of two, or that times `ways`, over which rows are split.
    """
    left = sorted(rows, key=lambda row: -row.length)
    while left:
        length = rounded(left[0].length)
        most = max(1, budget // length // ways)
        most = 1 << (most.bit_length() - 1)
        count = min(most, power_of_two(-(-len(left) // ways))) * ways
        yield left[:count], count, length
        left = left[count:]


def placed(rows: Sequence[ContextRow], count: int, length: int) -> PlacedRows:
    """Returns `count` rows (those given, then empty ones) of `length` tokens as arrays."""
    shape = (count, length)
    tokens, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    branches = np.full(shape, PADDING, np.int32)
    places: list[np.ndarray] = []
    targets: list[int] = []
    numbers: list[np.ndarray] = []
    nth: list[np.ndarray] = []
    for r, row in enumerate(rows):
        n = len(row.context) - row.shared
        tokens[r, :n], branches[r, :n] = row.context[row.shared :], 0
        positions[r, :n] = row.shared + np.arange(n)
        at = n
        for branch, a in enumerate(row.asked, 1):
            read = len(a.continuation) - 1
            tokens[r, at : at + read], branches[r, at : at + read] = a.continuation[:-1], branch
            positions[r, at : at + read] = len(row.context) + np.arange(read)
            places.append(r * length + np.array([n - 1, *range(at, at + read)], np.int32))
            targets += a.continuation
            numbers.append(np.full(read + 1, a.number))
            nth.append(a.first + np.arange(read + 1))
            at += read
    flat = [np.concatenate(parts) if parts else np.zeros(0, np.int32) for parts in (places, numbers, nth)]
    return PlacedRows(tokens, positions, branches, flat[0], np.array(targets, np.int32), flat[1], flat[2])
