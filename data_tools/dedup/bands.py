"""Band signatures: texts that agree in all rows of one band become candidates, nothing more."""

from dataclasses import dataclass

import numpy as np

from data_tools.dedup import shingles as sh
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Bands:
    """`bands` groups of `rows` signature values each; 14 x 8 finds a pair of Jaccard 0.8 with probability 0.92."""

    bands: int = 14
    rows: int = 8

    def check(self, permutations: int) -> None:
        """Raises JaxptError when a signature of `permutations` values is too short."""
        if self.bands < 1 or self.rows < 1 or self.bands * self.rows > permutations:
            raise JaxptError(
                f"bands={self.bands} x rows={self.rows} need {self.bands * self.rows} signature values, "
                f"the signature has {permutations}"
            )

    def probability(self, jaccard: float) -> float:
        """Returns the chance that a pair of this similarity shares a band: 1 - (1 - J^rows)^bands."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands


def choose(threshold: float, permutations: int = 112, false_positive_weight: float = 0.5) -> Bands:
    """Returns the bands that datasketch's optimiser picks for a Jaccard `threshold`.

    Args:
        threshold: similarity above which pairs should become candidates.
        permutations: length of the signature; the bands may use fewer.
        false_positive_weight: weight of the area of false positives; false negatives weigh the rest.

    Raises:
        JaxptError: a threshold or weight outside (0, 1), or datasketch missing.
    """
    if not 0.0 < threshold < 1.0 or not 0.0 < false_positive_weight < 1.0:
        raise JaxptError(f"band threshold {threshold} and weight {false_positive_weight} must lie inside (0, 1)")
    try:
        from datasketch import MinHashLSH
    except ImportError as error:
        raise JaxptError("choosing bands by threshold needs datasketch; install it or give bands and rows") from error
    weights = (false_positive_weight, 1.0 - false_positive_weight)
    index = MinHashLSH(threshold=threshold, num_perm=permutations, weights=weights)
    return Bands(index.b, index.r)


def keys(signatures: np.ndarray, bands: Bands) -> np.ndarray:
    """Returns the band keys `[bands, n] uint64` of signatures `[n, K] uint32`; equal rows of a band, equal key."""
    bands.check(signatures.shape[1])
    used = signatures[:, : bands.bands * bands.rows].reshape(len(signatures), bands.bands, bands.rows)
    out = np.zeros((bands.bands, len(signatures)), dtype=np.uint64)
    for row in range(bands.rows):
        out *= np.uint64(sh.TOKEN_BASE)
        out += used[:, :, row].T
    return sh.mix64(out.ravel()).reshape(out.shape)
