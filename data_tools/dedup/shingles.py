"""Hash words once and combine neighbours: token hashes, n-gram hashes and shingles of many texts at a time.

A token is a maximal run of folded word characters; in scripts written without spaces every character is a token,
hashed together with the character before it. Everything is integer arithmetic modulo 2^64, so the numpy path here and
the compiled path (`compiled.py`) give the same bits on every platform.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from data_tools.dedup import folding

WIDTH = 5  # tokens per shingle
BLOCK = 1 << 20  # characters hashed at a time; a single run of word characters is cut there
CHARACTER_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64
TOKEN_BASE = 0xC2B2AE3D27D4EB4F
PREVIOUS = 0x165667B19E3779F9
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Ragged:
    """Values of n texts end to end: text i owns `values[offsets[i] : offsets[i + 1]]`."""

    values: np.ndarray  # [N]
    offsets: np.ndarray  # [n + 1] int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @staticmethod
    def join(parts: Sequence["Ragged"]) -> "Ragged":
        """Returns the texts of all `parts` in order."""
        lengths = np.concatenate([p.lengths for p in parts])
        return Ragged(np.concatenate([p.values for p in parts]), np.concatenate([[0], np.cumsum(lengths)]))


def mix64(x: np.ndarray) -> np.ndarray:
    """Returns the MurmurHash3 64-bit finaliser of `x [N] uint64`: a bijection in which every bit matters."""
    x = x ^ (x >> np.uint64(33))
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return x


@cache
def powers() -> tuple[np.ndarray, np.ndarray]:
    """Returns `CHARACTER_BASE` to the powers 0 … BLOCK and their inverses modulo 2^64, each `[BLOCK + 1] uint64`."""

    def table(base: int) -> np.ndarray:
        out = np.ones(BLOCK + 1, dtype=np.uint64)
        done, step = 1, base
        while done < len(out):
            take = min(done, len(out) - done)
            out[done : done + take] = out[:take] * np.uint64(step)
            done, step = done + take, step * step & _MASK
        return out

    return table(CHARACTER_BASE), table(pow(CHARACTER_BASE, -1, 1 << 64))


Kernel = Callable[[np.ndarray, np.ndarray], Ragged]  # hashes folded code points, cut at offsets


def hash_tokens(folded: np.ndarray, offsets: np.ndarray) -> Ragged:
    """Hashes the tokens of folded texts (numpy path).

    Args:
        folded: `[N <= BLOCK] uint32` from `folding.fold`.
        offsets: `[n + 1] int64`.

    Returns:
        Token hashes, uint64, per text.
    """
    unspaced = folded >= folding.UNSPACED
    begin = np.flatnonzero(folding.token_starts(folded))
    if not len(begin):
        return Ragged(np.zeros(0, np.uint64), np.zeros_like(offsets))
    power, inverse = powers()
    term = (folded & np.uint32(folding.UNSPACED - 1)).astype(np.uint64)
    term *= power[: len(folded)]
    raw = np.add.reduceat(term, begin)
    raw *= inverse[begin]
    if unspaced.any():
        follows = np.flatnonzero(unspaced[begin] & unspaced[begin - 1] & (begin > 0))
        raw[follows] += mix64(raw)[follows - 1] * np.uint64(PREVIOUS)
    return Ragged(mix64(raw), np.searchsorted(begin, offsets))


def blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields runs of texts of at most `BLOCK` characters; a longer text comes alone."""
    first, size = 0, 0
    for i, text in enumerate(texts):
        if i > first and size + len(text) + 1 > BLOCK:
            yield texts[first:i]
            first, size = i, 0
        size += len(text) + 1
    if first < len(texts):
        yield texts[first:]


def _pieces(folded: np.ndarray, kernel: Kernel) -> Ragged:
    """Hashes one folded text of more than `BLOCK` characters piece by piece, cutting between tokens where it can."""
    parts, at = [], 0
    while at < len(folded):
        stop = min(at + BLOCK, len(folded))
        if stop < len(folded):
            gaps = np.flatnonzero(folded[at:stop] == folding.SEPARATOR)
            stop = at + int(gaps[-1]) + 1 if len(gaps) else stop
        parts.append(kernel(folded[at:stop], np.array([0, stop - at])).values)
        at = stop
    values = np.concatenate(parts)
    return Ragged(values, np.array([0, len(values)]))


def tokens(texts: Sequence[str], kernel: Kernel = hash_tokens) -> Ragged:
    """Returns the token hashes (uint64) of `texts`; `kernel` is `hash_tokens` or its compiled twin."""
    parts = []
    for block in blocks(texts):
        folded, offsets = folding.fold(block)
        if len(folded) <= BLOCK:
            parts.append(kernel(folded, offsets))
        else:  # one long text, or ligatures that became several characters
            parts += [_pieces(folded[start:stop], kernel) for start, stop in pairwise(offsets)]
    return Ragged.join(parts) if parts else Ragged(np.zeros(0, np.uint64), np.zeros(1, np.int64))


def ngrams(token_hashes: Ragged, width: int) -> Ragged:
    """Returns the hash (uint64) of every run of `width` tokens, in order.

    A text with fewer tokens has one n-gram, made of all it has; a text without tokens has none.
    """
    values, offsets = token_hashes.values, token_hashes.offsets
    stop = np.repeat(offsets[1:], token_hashes.lengths)
    index = np.arange(len(values))
    total = values.copy()
    factor = 1
    for j in range(1, width):
        factor = factor * TOKEN_BASE & _MASK
        inside = stop[: len(values) - j] > index[j:] if j < len(values) else np.zeros(0, bool)
        total[: len(inside)] += np.where(inside, values[j:] * np.uint64(factor), np.uint64(0))
    begin = np.repeat(offsets[:-1], token_hashes.lengths)
    keep = (index + width <= stop) | (index == begin)
    counts = np.where(token_hashes.lengths > 0, np.maximum(token_hashes.lengths - width + 1, 1), 0)
    return Ragged(mix64(total[keep]), np.concatenate([[0], np.cumsum(counts)]))


def ngrams_of_one(tokens: np.ndarray, width: int) -> np.ndarray:
    """Returns the n-grams `[n] uint64` of one text of token hashes `[T]`: what `ngrams` does for many."""
    width = min(width, len(tokens))
    count = len(tokens) - width + 1
    total = tokens[:count].copy() if width else tokens
    factor = 1
    for j in range(1, width):
        factor = factor * TOKEN_BASE & _MASK
        total += tokens[j : j + count] * np.uint64(factor)
    return mix64(total)


def shingles(token_hashes: Ragged, width: int = WIDTH) -> Ragged:
    """Returns the upper 32 bits (uint32) of the n-gram hashes: the elements of the sets that MinHash compares."""
    grams = ngrams(token_hashes, width)
    return Ragged((grams.values >> np.uint64(32)).astype(np.uint32), grams.offsets)
