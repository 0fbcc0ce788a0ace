"""One packed row as bytes, and many rows as the arrays of a batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the models need JAX and Flax, which reading data does not
    from jaxpt.models.batch import Rows

DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def token_dtype(vocab_size: int) -> str:
    """Returns the narrowest stored dtype that holds every id of the vocabulary."""
    return "uint16" if vocab_size <= 65_536 else "uint32"


@dataclass(frozen=True)
class Row:
    """A packed row before it is written.

    `tokens [S]` ids, padding included; `starts` the offset of each segment and, last, where padding begins;
    `mask [S]` bool, whether a token may be a target.
    """

    tokens: np.ndarray
    starts: np.ndarray
    mask: np.ndarray


def encode(row: Row, dtype: str) -> bytes:
    """Returns the record: tokens, S mask bits, then the starts, all little-endian."""
    bits = np.packbits(row.mask, bitorder="little")
    return row.tokens.astype(DTYPES[dtype]).tobytes() + bits.tobytes() + row.starts.astype("<u4").tobytes()


def decode(records: Sequence[bytes], sequence_length: int, dtype: str) -> "Rows[np.ndarray]":
    """Returns the arrays of a batch.

    A target is the next token of the same segment, 0 where there is none; a loss weight is 0 at a segment's last token,
    in padding, and where the target is masked, else 1.
    """
    b, s = len(records), sequence_length
    wide = DTYPES[dtype].itemsize * s
    mask_end = wide + (s + 7) // 8
    joined = np.frombuffer(b"".join(r[:mask_end] for r in records), np.uint8).reshape(b, mask_end)
    tokens = np.ascontiguousarray(joined[:, :wide]).view(DTYPES[dtype]).astype(np.int32)
    mark = np.zeros((b, s + 1), np.int32)
    used = np.empty((b, 1), np.int32)
    for i, record in enumerate(records):
        starts = np.frombuffer(record, "<u4", offset=mask_end)
        mark[i, starts[:-1]] = 1
        used[i] = starts[-1]
    mark = mark[:, :s]
    index = np.arange(s, dtype=np.int32)
    real = index < used
    segment_ids = np.cumsum(mark, axis=1, dtype=np.int32)
    segment_ids *= real
    begin = np.maximum.accumulate(mark * index, axis=1)
    positions = (index - begin) * real
    targets = np.zeros_like(tokens)
    targets[:, :-1] = tokens[:, 1:]
    bits = joined[:, wide:]
    weights = np.zeros((b, s), bool)
    np.equal(segment_ids[:, 1:], segment_ids[:, :-1], out=weights[:, :-1])
    weights &= real
    if not (bits == 255).all():
        mask = np.unpackbits(bits, axis=1, count=s, bitorder="little").astype(bool)
        weights[:, :-1] &= mask[:, 1:]
    targets *= np.concatenate([segment_ids[:, 1:] == segment_ids[:, :-1], np.zeros((b, 1), bool)], axis=1) & real
    return {
        "tokens": tokens,
        "targets": targets,
        "segment_ids": segment_ids,
        "positions": positions,
        "loss_weights": weights.astype(np.float32),
    }


def joined(parts: Sequence["Rows[np.ndarray]"], order: np.ndarray) -> "Rows[np.ndarray]":
    """Returns the rows of all parts, one part after the other, and of these those that `order` counts."""

    def join(arrays: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(arrays))[order]

    return {
        "tokens": join(p["tokens"] for p in parts),
        "targets": join(p["targets"] for p in parts),
        "segment_ids": join(p["segment_ids"] for p in parts),
        "positions": join(p["positions"] for p in parts),
        "loss_weights": join(p["loss_weights"] for p in parts),
    }
