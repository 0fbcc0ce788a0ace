"""How far a score's differences can be trusted: its noise between late checkpoints beside its spread over the run.

After Signal and Noise (arXiv:2508.13144): noise is the relative standard deviation over the last checkpoints. Their
signal is the relative spread over models; within one run it is that over its checkpoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LAST = 5  # checkpoints that the noise is estimated from, at most
LEAST = 3  # from fewer nothing is estimated


class Noise(NamedTuple):
    """`noise` = std(last) / |mean(last)|, `signal` = (max - min) / |mean(last)|; `last` of `points` checkpoints."""

    noise: float
    signal: float
    last: int
    points: int

    @property
    def ratio(self) -> float:
        """Signal over noise; inf where the last are all equal."""
        return self.signal / self.noise if self.noise else float("inf")


def noise_of(values: Sequence[float], last: int = LAST) -> Noise | None:
    """Returns noise and signal of a score at the checkpoints of a run, oldest first.

    None where fewer than `LEAST` values are finite, or the mean of the last is 0. The standard deviation is that of a
    sample (n - 1), which is itself known to about 1 / sqrt(2 (n - 1)) of it: to a half from 3 values, a third from 5.
    """
    known = np.asarray([v for v in values if np.isfinite(v)], np.float64)
    if len(known) < LEAST:
        return None
    late = known[-last:]
    mean = abs(float(late.mean()))
    if not mean:
        return None
    spread = float(known.max() - known.min())
    return Noise(float(late.std(ddof=1)) / mean, spread / mean, len(late), len(known))
