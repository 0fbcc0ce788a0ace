"""The signature kernels compiled by numba: the same integers as the numpy path, several times faster."""

import numba
import numpy as np

from data_tools.dedup import folding, minhash
from data_tools.dedup import shingles as sh

_OPTIONS = {"nogil": True, "cache": True}
_SEPARATOR = np.uint32(folding.SEPARATOR)
_UNSPACED = np.uint32(folding.UNSPACED)
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


def signatures_of_tokens(token_hashes: sh.Ragged, scheme: minhash.Scheme) -> np.ndarray:
    """Compiled twin of `minhash.signatures_of_sets`, from token hashes: `[n, K] uint32`."""
    a, b = scheme.coefficients()
    out = np.empty((len(token_hashes), scheme.permutations), dtype=np.uint32)
    _signatures(token_hashes.values, token_hashes.offsets.astype(np.int64), scheme.width, a, b, out)
    return out
