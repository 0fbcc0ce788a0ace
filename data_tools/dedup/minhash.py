"""MinHash signatures: one definition, computed by numpy or compiled, readable as `datasketch.MinHash`.

The scheme is datasketch's "affine32": the element is mixed by the 32-bit MurmurHash3 finaliser, each permutation is
`a * x + b mod 2^32` with odd `a`, and the signature keeps the minimum (Broder 1997). The elements are `shingles`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from data_tools.dedup import shingles as sh
from jaxpt.errors import JaxptError

EMPTY = np.uint32(0xFFFFFFFF)  # datasketch's value for a set without elements
CHUNK = 1 << 14  # elements permuted at a time: 64 KB, stays in the cache


@dataclass(frozen=True)
class Scheme:
    """What fixes a signature's bits; stored beside every signature file and compared before signatures are."""

    permutations: int = 112
    seed: int = 1
    width: int = sh.WIDTH
    name: str = "affine32"
    folding: str = sh.folding.VERSION

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(a, b)`, each `[K] uint32`, drawn as datasketch draws them for this seed."""
        return _coefficients(self.permutations, self.seed)


@cache
def _coefficients(permutations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.RandomState(seed)  # a stream that numpy has promised not to change
    a = draw.randint(0, 1 << 31, permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, draw.randint(0, 1 << 32, permutations, dtype=np.uint32)


def mix32(x: np.ndarray) -> np.ndarray:
    """Returns the MurmurHash3 32-bit finaliser of `x [N] uint32`."""
    x = x ^ (x >> np.uint32(16))
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return x


def signatures_of_sets(sets: sh.Ragged, scheme: Scheme) -> np.ndarray:
    """Returns the signatures `[n, K] uint32` of n ragged sets of uint32 elements (numpy path)."""
    a, b = scheme.coefficients()
    out = np.full((scheme.permutations, len(sets)), EMPTY, dtype=np.uint32)
    mixed = mix32(sets.values)
    filled = np.flatnonzero(sets.lengths)
    work = np.empty(CHUNK, dtype=np.uint32)
    begin = sets.offsets[filled]
    at = 0
    while at < len(filled):
        stop = max(int(np.searchsorted(begin, begin[at] + CHUNK, "right")) - 1, at + 1)
        last = sets.offsets[filled[stop - 1] + 1]
        if last - begin[at] > CHUNK and stop - at > 1:
            stop -= 1
            last = sets.offsets[filled[stop - 1] + 1]
        values = mixed[begin[at] : last]
        room = work[: len(values)] if len(values) <= CHUNK else np.empty_like(values)
        cuts = begin[at:stop] - begin[at]
        for k in range(scheme.permutations):
            np.multiply(values, a[k], out=room)
            room += b[k]
            out[k, filled[at:stop]] = np.minimum.reduceat(room, cuts)
        at = stop
    return np.ascontiguousarray(out.T)


@lru_cache(maxsize=1)
def compiled_kernels() -> ModuleType | None:
    """Returns the module of compiled kernels, or None where numba is not installed."""
    try:
        from data_tools.dedup import compiled
    except ImportError:
        return None
    return compiled


def signatures(texts: Sequence[str], scheme: Scheme | None = None, path: str = "auto") -> np.ndarray:
    """Returns the signatures `[n, K] uint32` of `texts`.

    Args:
        texts: n strings.
        scheme: what is computed.
        path: "numpy", "compiled" (needs numba) or "auto" (compiled where numba is installed); the result is the same.

    Raises:
        JaxptError: an unknown path, or "compiled" without numba.
    """
    return signatures_of_tokens(hash_tokens(texts, path), scheme or Scheme(), path)


def kernels_for(path: str) -> ModuleType | None:
    """Returns the compiled kernels, or None for the numpy path; see `signatures`."""
    if path not in ("auto", "numpy", "compiled"):
        raise JaxptError(f"signature path {path!r} is unknown; use auto, numpy or compiled")
    kernels = None if path == "numpy" else compiled_kernels()
    if path == "compiled" and kernels is None:
        raise JaxptError("signature path 'compiled' needs numba; install it or use path numpy (same signatures)")
    return kernels


def hash_tokens(texts: Sequence[str], path: str = "auto") -> sh.Ragged:
    """Returns the token hashes of `texts` by the path asked for."""
    kernels = kernels_for(path)
    return kernels.hash_texts(texts) if kernels else sh.tokens(texts)


def signatures_of_tokens(token_hashes: sh.Ragged, scheme: Scheme, path: str = "auto") -> np.ndarray:
    """Returns the signatures `[n, K] uint32` of texts given by their token hashes."""
    kernels = kernels_for(path)
    if kernels:
        return kernels.signatures_of_tokens(token_hashes, scheme)
    return signatures_of_sets(sh.shingles(token_hashes, scheme.width), scheme)


def similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the estimated Jaccard similarity `[...]` of signatures `[..., K]`; its variance is J (1 - J) / K."""
    return (left == right).mean(axis=-1)


def to_datasketch(signature: np.ndarray, scheme: Scheme | None = None) -> Any:
    """Returns `signature [K]` as a `datasketch.MinHash`, comparable with others of the same seed and shingles."""
    from datasketch import MinHash

    scheme = scheme or Scheme()
    return MinHash(hashvalues=signature, seed=scheme.seed, scheme=scheme.name)
