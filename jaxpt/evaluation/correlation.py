"""Whether two series of numbers rise together: Spearman's rank correlation (Spearman, 1904)."""

import math
from collections.abc import Sequence

import numpy as np


def ranks(values: Sequence[float]) -> np.ndarray:
    """Returns the place of each value in ascending order, from 1; float64 `[n]`; equal values share a mean place."""
    _, where, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: np.ndarray = (last - (counts - 1) / 2)[where.reshape(-1)]
    return mean


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns Spearman's rho, in [-1, 1]: the linear correlation of the ranks of `x [n]` with those of `y [n]`.

    nan where it does not exist: fewer than two points, all values of one side equal, or a value that is not a number.

    Raises:
        ValueError: `x` and `y` of different lengths.
    """
    if len(x) != len(y):
        raise ValueError(f"rank_correlation: x has {len(x)} values, y has {len(y)}")
    if len(x) < 2 or np.isnan([*x, *y]).any():
        return math.nan
    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    size = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / size)) if size else math.nan
