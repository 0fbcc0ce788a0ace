"""The best share of a corpus, exactly: every document's rank lies on disk, the cut is found in bounded memory."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import xxhash

from jaxpt.errors import JaxptError

BLOCK = 1 << 16  # documents held at a time, 16 bytes each
DIGIT = 16  # bits of a key that are counted in one pass


def ties(shard: str, first: int, count: int) -> np.ndarray:
    """Returns `[count] uint64` that order documents of equal score: fixed by the shard and the row."""
    places = (f"{shard}#{row}".encode() for row in range(first, first + count))
    return np.fromiter((xxhash.xxh3_64_intdigest(place) for place in places), np.uint64, count)


def keys(scores: np.ndarray) -> np.ndarray:
    """Returns `[n] uint64`, smaller for higher `scores [n]`; nan is the lowest score."""
    negated = np.where(np.isnan(scores), np.inf, -scores.astype(np.float64)) + 0.0
    bits = negated.view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


@dataclass(frozen=True)
class Cut:
    """Where a share of a corpus ends."""

    keep: float  # share asked for
    documents: int  # that stay: the share of all, rounded to the nearest, at least one
    kept: float  # their share
    value: float  # score of the last one that stays
    tie: int  # its place among documents of this score

    def stays(self, scores: np.ndarray, ties: np.ndarray) -> np.ndarray:
        """Returns `[n] bool`: which documents stay, given their scores and `ties`."""
        mine, last = keys(scores), keys(np.array([self.value]))[0]
        return (mine < last) | ((mine == last) & (ties <= np.uint64(self.tie)))


class Ranking:
    """The scores of a corpus, added batch by batch."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="jaxpt-data-")  # noqa: SIM115  lives as long as the ranking
        self._count = 0

    def add(self, scores: np.ndarray, ties: np.ndarray) -> None:
        """Adds documents: `[n]` scores, and `[n]` uint64 that order those of equal score."""
        self._file.write(np.stack([keys(scores), ties], axis=1).tobytes())
        self._count += len(scores)

    def _blocks(self, column: int, prefix: Sequence[int] = ()) -> Iterator[np.ndarray]:
        """Yields a column; of the second one, the rows whose first column is `prefix`."""
        self._file.seek(0)
        while data := self._file.read(BLOCK * 16):
            block = np.frombuffer(data, np.uint64).reshape(-1, 2)
            for value in prefix:
                block = block[block[:, 0] == np.uint64(value)]
            yield block[:, column]

    def cut(self, keep: float) -> Cut:
        """Returns where the best `keep` of the documents ends.

        Raises:
            JaxptError: no documents, or a share outside (0, 1].
        """
        if not self._count or not 0 < keep <= 1:
            raise JaxptError(f"keep={keep} must be in (0, 1], and there must be documents ({self._count:,})")
        documents = max(int(Fraction(str(keep)) * self._count + Fraction(1, 2)), 1)
        last, before = _smallest(lambda: self._blocks(0), documents)
        tie, _ = _smallest(lambda: self._blocks(1, [last]), documents - before)
        sign = 1 << 63
        bits = last & (sign - 1) if last & sign else ~last & ((1 << 64) - 1)
        value = -float(np.array([bits], np.uint64).view(np.float64)[0])
        return Cut(keep, documents, documents / self._count, value, tie)


def _smallest(blocks: Callable[[], Iterator[np.ndarray]], number: int) -> tuple[int, int]:
    """Returns the `number`-th smallest value (from 1) and how many are smaller; a digit per pass, highest first."""
    found, before = 0, 0
    for shift in range(64 - DIGIT, -1, -DIGIT):
        counts = np.zeros(1 << DIGIT, np.int64)
        for block in blocks():
            above = block >> np.uint64(shift)
            digits = above & np.uint64((1 << DIGIT) - 1)
            mine = digits[above >> np.uint64(DIGIT) == np.uint64(found)] if shift < 64 - DIGIT else digits
            counts += np.bincount(mine.astype(np.int64), minlength=1 << DIGIT)
        total = np.cumsum(counts)
        digit = int(np.searchsorted(total, number - before))
        before += int(total[digit] - counts[digit])
        found = found << DIGIT | digit
    return found, before
