"""A keyed permutation of 0 … n-1 that is computed, not stored."""

import hashlib

import numpy as np

ROUNDS = 6


class Permutation:
    """Position to row by a Feistel network with cycle walking (Black & Rogaway 2002, section 3.3).

    The domain is the smallest even power of two that holds n; a value that falls outside is sent through again, fewer
    than four times on average.
    """

    def __init__(self, size: int, key: str):
        """A permutation of `size` positions; equal keys give equal permutations, on every platform."""
        self.size = size
        self._half = max(1, ((max(size - 1, 1)).bit_length() + 1) // 2)
        digest = hashlib.blake2b(f"{size}:{key}".encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, "<u8")

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the row at each position, int64; positions are 0 … size-1."""
        x = np.asarray(positions, np.uint64)
        if x.size and int(x.max()) >= self.size:
            raise IndexError(f"position {int(x.max())} of a permutation of {self.size}")
        out = self._once(x)
        while (outside := out >= self.size).any():
            out[outside] = self._once(out[outside])
        return out.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        half = np.uint64(self._half)
        mask = np.uint64((1 << self._half) - 1)
        left, right = x >> half, x & mask
        for key in self._keys:
            left, right = right, left ^ (mix(right + key) & mask)
        return (left << half) | right


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
