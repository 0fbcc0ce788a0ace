"""The signature kernels compiled by numba: the same integers as the numpy path, several times faster."""

from collections.abc import Sequence

import numba
import numpy as np

from data_tools.dedup import folding, minhash
from data_tools.dedup import shingles as sh

_OPTIONS = {"nogil": True, "cache": True}
_SEPARATOR = np.uint32(folding.SEPARATOR)
_UNSPACED = np.uint32(folding.UNSPACED)
_DELETE = np.uint32(folding.DELETE)
_COMPOSE = np.uint32(folding.COMPOSE)
_POINT = np.uint32(folding.UNSPACED - 1)
_CHARACTER = np.uint64(sh.CHARACTER_BASE)
_TOKEN = np.uint64(sh.TOKEN_BASE)
_PREVIOUS = np.uint64(sh.PREVIOUS)
_EMPTY = np.uint32(0xFFFFFFFF)


@numba.njit(**_OPTIONS)
def _mix64(x: np.uint64) -> np.uint64:
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@numba.njit(**_OPTIONS)
def _mix32(x: np.uint32) -> np.uint32:  # numba widens uint32 products to 64 bits: cut back after each
    x ^= x >> np.uint32(16)
    x = np.uint32(x * np.uint32(0x85EBCA6B))
    x ^= x >> np.uint32(13)
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(**_OPTIONS)
def _hash_tokens(folded: np.ndarray, offsets: np.ndarray, out: np.ndarray, ends: np.ndarray) -> int:
    count = 0
    for doc in range(len(offsets) - 1):
        at, stop = offsets[doc], offsets[doc + 1]
        before, joined = np.uint64(0), False
        while at < stop:
            point = folded[at]
            if point == _SEPARATOR:
                at += 1
                joined = False
                continue
            value, power = np.uint64(point & _POINT), _CHARACTER
            at += 1
            if point >= _UNSPACED:
                raw = value
                if joined:
                    value += _mix64(before) * _PREVIOUS
                before, joined = raw, True
            else:
                joined = False
                while at < stop and folded[at] != _SEPARATOR and folded[at] < _UNSPACED:
                    value += np.uint64(folded[at]) * power
                    power *= _CHARACTER
                    at += 1
            out[count] = _mix64(value)
            count += 1
        ends[doc] = count
    return count


@numba.njit(**_OPTIONS)
def _code_point(data: np.ndarray, at: int) -> tuple[int, int]:
    """Returns the code point at a place of valid UTF-8 (unpaired surrogates count as such), and the next place."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return byte, at + 1
    size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    code = byte & (0x7F >> size)
    for i in range(1, size):
        code = code << 6 | np.int64(data[at + i]) & 0x3F
    return code, at + size


@numba.njit(**_OPTIONS)
def _hash_utf8(
    data: np.ndarray, cuts: np.ndarray, table: np.ndarray, white: np.ndarray, out: np.ndarray, ends: np.ndarray
) -> None:
    """Folds and hashes UTF-8 in one pass, `out` as long as `data`; `ends[doc]` is -1 where it takes `folding.fold`."""
    count = 0
    for doc in range(len(cuts) - 1):
        at, stop, first = cuts[doc], cuts[doc + 1], count
        value, power = np.uint64(0), np.uint64(0)  # of the token that is open, if power is not 0
        before, joined, spaced, hyphen, plain = np.uint64(0), False, False, False, True
        while at < stop:
            code, at = _code_point(data, at)
            point = table[code]
            if point == _DELETE:
                hyphen = hyphen or code == 0xAD
                continue
            if point == _SEPARATOR:
                if code == 10 and hyphen:
                    plain = False
                    break
                hyphen = code == 0x2D or code == 0x2010
                if power:
                    out[count] = _mix64(value)
                    count += 1
                    power = np.uint64(0)
                spaced, joined = (joined or spaced) and white[code], False
                continue
            hyphen = False
            if point & _COMPOSE:
                plain = False
                break
            if point >= _UNSPACED:
                if spaced:  # white space between two of them, which goes if it is short
                    plain = False
                    break
                if power:
                    out[count] = _mix64(value)
                    count += 1
                    power = np.uint64(0)
                raw = np.uint64(point & _POINT)
                out[count] = _mix64(raw + _mix64(before) * _PREVIOUS if joined else raw)
                count += 1
                before, joined = raw, True
                continue
            joined = spaced = False
            if power:
                value += np.uint64(point) * power
                power *= _CHARACTER
            else:
                value, power = np.uint64(point), _CHARACTER
        if not plain:
            count, ends[doc] = first, -1
            continue
        if power:
            out[count] = _mix64(value)
            count += 1
        ends[doc] = count


@numba.njit(**_OPTIONS)
def _signatures(
    tokens: np.ndarray, offsets: np.ndarray, width: int, a: np.ndarray, b: np.ndarray, out: np.ndarray
) -> None:
    for doc in range(len(offsets) - 1):
        start, stop = offsets[doc], offsets[doc + 1]
        row = out[doc]
        row[:] = _EMPTY
        if stop == start:
            continue
        size = min(width, stop - start)
        elements = np.empty(stop - start - size + 1, dtype=np.uint32)
        for i in range(len(elements)):
            total, factor = tokens[start + i], _TOKEN
            for j in range(1, size):
                total += tokens[start + i + j] * factor
                factor *= _TOKEN
            elements[i] = _mix32(np.uint32(_mix64(total) >> np.uint64(32)))
        for k in range(len(a)):
            slope, offset, least = a[k], b[k], _EMPTY
            for i in range(len(elements)):
                least = min(least, np.uint32(elements[i] * slope + offset))
            row[k] = least


def hash_tokens(folded: np.ndarray, offsets: np.ndarray) -> sh.Ragged:
    """Compiled twin of `shingles.hash_tokens`."""
    out = np.empty(len(folded), dtype=np.uint64)
    ends = np.zeros(len(offsets), dtype=np.int64)
    count = _hash_tokens(folded, offsets, out, ends[1:])
    return sh.Ragged(out[:count].copy(), ends)


def hash_texts(texts: Sequence[str]) -> sh.Ragged:
    """Returns what `shingles.tokens` does: most texts folded while they are hashed, the others as there."""
    parts = [_hash_block(block) for block in sh.blocks(texts)]
    return sh.Ragged.join(parts) if parts else sh.tokens(texts)


def _hash_block(texts: Sequence[str]) -> sh.Ragged:
    if max(map(len, texts)) >= sh.BLOCK:  # is cut into pieces there
        return sh.tokens(texts, hash_tokens)
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    cuts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in encoded], out=cuts[1:])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    out, ends = np.empty(len(data), dtype=np.uint64), np.zeros(len(texts), dtype=np.int64)
    _hash_utf8(data, cuts, folding.table(), folding.white(), out, ends)
    others = np.flatnonzero(ends < 0).tolist()
    if not others:
        return sh.Ragged(out[: ends[-1]].copy(), np.concatenate([[0], ends]))
    ends = np.maximum.accumulate(ends)
    fast = sh.Ragged(out, np.concatenate([[0], ends.clip(0)]))
    slow = sh.tokens([texts[i] for i in others], hash_tokens)
    rows = [fast[i] for i in range(len(texts))]
    for i, place in enumerate(others):
        rows[place] = slow[i]
    return sh.Ragged(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(r) for r in rows])]))


def signatures_of_tokens(token_hashes: sh.Ragged, scheme: minhash.Scheme) -> np.ndarray:
    """Compiled twin of `minhash.signatures_of_sets`, from token hashes: `[n, K] uint32`."""
    a, b = scheme.coefficients()
    out = np.empty((len(token_hashes), scheme.permutations), dtype=np.uint32)
    _signatures(token_hashes.values, token_hashes.offsets.astype(np.int64), scheme.width, a, b, out)
    return out
