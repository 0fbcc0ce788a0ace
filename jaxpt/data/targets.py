"""A teacher's next-token targets of one packed row as bytes, and those of many rows as the arrays of a batch.

A record holds, little-endian and in this order:

    lengths   S bytes         how many ids each position has; 0 where it has no target
    entropy   2 bytes each    of the teacher's distribution in nats, float16, of positions with a length above 0
    items     3 to 6 bytes    of each position in turn: `sampled`: id · 64 + count (18 + 6 bits), by rising id;
                              `top_k`: the id, then -2048 · log p rounded (uint16, at most 32 nats), by falling p

An id takes 3 bytes (18 bits where a count is beside it); 4 bytes where the vocabulary has more than 2^18 entries. A
position with u ids thus takes 3 u + 3 bytes sampled, 5 u + 3 as top-k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from jaxpt.errors import JaxptError

COUNT_BITS = 6
STEPS = 2048  # of a log-probability, per nat
NARROW = 2**18  # entries whose ids fit into 18 bits
MOST = {"sampled": 2**COUNT_BITS - 1, "top_k": 255}  # draws that a count holds, ids that a length holds


@dataclass(frozen=True)
class TargetKind:
    """What is kept of each distribution: `sampled`, the counts of `ids` draws, or `top_k`, the `ids` likeliest.

    `vocab_size` counts the entries that the distribution is over.
    """

    kind: Literal["sampled", "top_k"]
    ids: int
    vocab_size: int

    def __post_init__(self) -> None:
        what = "draws" if self.kind == "sampled" else "k"
        if not 1 <= self.ids <= MOST[self.kind]:
            raise JaxptError(f"--{what}={self.ids} must be from 1 to {MOST[self.kind]}")
        if self.kind == "top_k" and self.ids > self.vocab_size:
            raise JaxptError(f"--k={self.ids} is more than the vocabulary has entries ({self.vocab_size})")
        if self.vocab_size > 2 ** (32 - COUNT_BITS):
            raise JaxptError(f"a vocabulary of {self.vocab_size:,} entries is more than targets can name (2^26)")

    @property
    def id_bytes(self) -> int:
        """Bytes of an id, with its count where it has one."""
        return 3 if self.vocab_size <= NARROW else 4

    @property
    def item_bytes(self) -> int:
        """Bytes of one entry."""
        return self.id_bytes + (2 if self.kind == "top_k" else 0)


class Targets(NamedTuple):
    """Targets of one row: `lengths [S]` uint8, `ids [n]` of all positions in turn, `values [n]` counts or log-prob
    steps beside them, `entropy [m]` float16 of the m positions that have targets."""

    lengths: np.ndarray
    ids: np.ndarray
    values: np.ndarray
    entropy: np.ndarray


class TargetArrays(NamedTuple):
    """Targets of rows in a fixed width: `ids [B, S, K]` int32, `weights [B, S, K]` float32 (0 where there is no id),
    and `entropy [B, S]` float32: what a cross-entropy with the weights exceeds its divergence by."""

    ids: np.ndarray
    weights: np.ndarray
    entropy: np.ndarray


def counted(draws: np.ndarray, entropy: np.ndarray, real: np.ndarray) -> Targets:
    """Returns the targets of a row from the ids drawn.

    Args:
        draws: `[S, N]` int.
        entropy: `[S]`, nats.
        real: `[S]` bool, which positions have a target.
    """
    draws = np.sort(draws[real], axis=1)
    first = np.ones(draws.shape, bool)
    first[:, 1:] = draws[:, 1:] != draws[:, :-1]
    at = np.flatnonzero(first)
    lengths = np.zeros(len(real), np.uint8)
    lengths[real] = first.sum(axis=1)
    return Targets(lengths, draws.ravel()[at], np.diff(at, append=draws.size), entropy[real].astype(np.float16))


def likeliest(ids: np.ndarray, log_p: np.ndarray, entropy: np.ndarray, real: np.ndarray) -> Targets:
    """Returns the targets of a row from its likeliest ids and their log-probabilities, both `[S, k]` by falling p."""
    steps = np.clip(np.rint(-STEPS * log_p[real].astype(np.float64)), 0, 2**16 - 1).astype(np.int64)
    lengths = np.where(real, ids.shape[1], 0).astype(np.uint8)
    return Targets(lengths, ids[real].ravel(), steps.ravel(), entropy[real].astype(np.float16))


def encode(targets: Targets, kind: TargetKind) -> bytes:
    """Returns the record of a row."""
    if kind.kind == "sampled":
        items = _narrow(targets.ids << COUNT_BITS | targets.values, kind.id_bytes)
    else:
        steps = targets.values.astype("<u2")[:, None].view(np.uint8)
        items = np.concatenate([_narrow(targets.ids, kind.id_bytes), steps], axis=1)
    return targets.lengths.tobytes() + targets.entropy.astype("<f2").tobytes() + items.tobytes()


def _narrow(values: np.ndarray, width: int) -> np.ndarray:
    """The lowest `width` bytes of each value, `[n, width]` uint8."""
    return values.astype("<u4")[:, None].view(np.uint8)[:, :width]


def decode(record: bytes, sequence_length: int, kind: TargetKind) -> Targets:
    """Returns the targets of a record.

    Raises:
        ValueError: bytes that `encode` does not write.
    """
    s = sequence_length
    lengths = np.frombuffer(record, np.uint8, min(s, len(record)))
    count, real = int(lengths.sum(dtype=np.int64)), int(np.count_nonzero(lengths))
    if len(lengths) != s or len(record) != s + 2 * real + kind.item_bytes * count:
        raise ValueError(f"{len(record)} bytes for {count} ids at {real} of {s} positions")
    entropy = np.frombuffer(record, "<f2", real, s)
    items = np.frombuffer(record, np.uint8, offset=s + 2 * real).reshape(count, kind.item_bytes)
    wide = np.zeros((count, 4), np.uint8)
    wide[:, : kind.id_bytes] = items[:, : kind.id_bytes]
    ids = wide.view("<u4")[:, 0]
    if kind.kind == "sampled":
        ids, values = ids >> COUNT_BITS, ids & (2**COUNT_BITS - 1)
        total = np.add.reduceat(values, np.cumsum(lengths[lengths > 0], dtype=np.int64) - lengths[lengths > 0])
        if count and (total != kind.ids).any():
            raise ValueError(f"counts of a position that do not sum to {kind.ids}")
    else:
        values = np.ascontiguousarray(items[:, kind.id_bytes :]).view("<u2")[:, 0]
    if count and int(ids.max()) >= kind.vocab_size:
        raise ValueError(f"id {int(ids.max())} in a vocabulary of {kind.vocab_size}")
    return Targets(lengths, ids.astype(np.int32), values.astype(np.int32), entropy)


def widened(rows: Sequence[Targets], kind: TargetKind, width: int) -> TargetArrays:
    """Returns the targets of rows side by side.

    A weight is the count's share of the draws, or a probability. What the likeliest ids leave of 1 is the tail: one
    more event, of which the entropy counts too (that of these `k + 1` events; for `sampled` it is the teacher's own).

    Args:
        rows: decoded.
        kind: of all of them.
        width: K, at least the longest length.

    Raises:
        ValueError: a position with more ids than K.
    """
    lengths = np.stack([row.lengths for row in rows])
    if int(lengths.max(initial=0)) > width:
        raise ValueError(f"a position has {int(lengths.max())} ids, room is for {width}")
    ids = np.zeros((*lengths.shape, width), np.int32)
    weights = np.zeros(ids.shape, np.float32)
    entropy = np.zeros(lengths.shape, np.float32)
    there = np.arange(width) < lengths[..., None]
    ids[there] = np.concatenate([row.ids for row in rows])
    values = np.concatenate([row.values for row in rows])
    if kind.kind == "sampled":
        weights[there] = values / np.float32(kind.ids)
        entropy[lengths > 0] = np.concatenate([row.entropy for row in rows])
    else:
        weights[there] = np.exp(values / -float(STEPS))
        sums = weights.sum(axis=-1, keepdims=True)
        weights /= np.maximum(sums, 1)  # rounding may have taken them above 1
        tail = np.clip(1 - sums, 0, 1)
        events = np.concatenate([weights, tail], axis=-1)
        entropy[:] = np.where(lengths > 0, -np.sum(events * np.log(np.where(events > 0, events, 1)), axis=-1), 0)
    return TargetArrays(ids, weights, entropy)
