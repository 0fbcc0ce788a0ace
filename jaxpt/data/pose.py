"""Positional skip-wise training (PoSE): positions that skip at random, so that short rows train long distances."""

from dataclasses import dataclass

import numpy as np

from jaxpt.config.choice import option
from jaxpt.data.permutation import mix
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Pose:
    """Zhu et al. 2023, "PoSE: Efficient Context Window Extension of LLMs via Positional Skip-wise Training", §3.2.

    Each document of a row is cut at random into `chunks` chunks; each chunk after the first is moved on by a random
    number of positions, the last of them below `target`. Tokens, targets and the document mask stay as they are.
    """

    target: int = option(doc="all positions stay below it")
    chunks: int = option(2, "parts of a document, each moved on by a random number of positions")

    def __post_init__(self) -> None:
        if self.chunks < 2:
            raise JaxptError(f"pose.chunks is {self.chunks}, it must be at least 2")
        if self.target < 2:
            raise JaxptError(f"pose.target is {self.target}, it must be at least 2")


def skip(positions: np.ndarray, segment_ids: np.ndarray, pose: Pose, seed: int, rows: np.ndarray) -> np.ndarray:
    """Returns positions with skips, int32 `[B, S]`: a function of the row's number alone, whichever host asks.

    A document of n tokens has n positions that rise from 0 and stay below `max(n, target)`. With u_0 = 0, the bias of
    chunk i is drawn from u_(i-1) … target - n, and the bounds of the chunks from 0 … n.

    Args:
        positions: `[B, S]`, counting up from 0 in each segment.
        segment_ids: `[B, S]`, 0 = padding, whose positions stay.
        pose: target and number of chunks.
        seed: the run's.
        rows: `[B]`, the number of each row among all rows of the run.
    """
    b = len(positions)
    width = int(segment_ids.max()) + 1
    cell = np.arange(b)[:, None] * width + segment_ids
    length = np.bincount(cell.ravel(), minlength=b * width).reshape(b, width)
    keys = mix(mix(np.array([seed % 2**64], np.uint64)) + rows.astype(np.uint64))[:, None] + np.arange(
        width, dtype=np.uint64
    )

    def uniform(k: int) -> np.ndarray:
        """Numbers in [0, 1), `[B, width]`."""
        return (mix(mix(keys) + np.uint64(k)) >> np.uint64(11)) * 2.0**-53

    room = np.maximum(pose.target - length, 0)
    room[:, 0] = 0
    cuts = np.sort(np.stack([uniform(2 * i) for i in range(1, pose.chunks)]), axis=0) * length
    out, bias = positions.astype(np.int64), np.zeros_like(room)
    for i, cut in enumerate(np.floor(cuts).astype(np.int64), 1):
        step = np.floor(uniform(2 * i + 1) * (room - bias + 1)).astype(np.int64)
        out += np.where(positions >= cut.ravel()[cell], step.ravel()[cell], 0)
        bias += step
    return out.astype(np.int32)
