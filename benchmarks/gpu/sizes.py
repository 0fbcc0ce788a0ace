"""What is measured: the model of 1.2B parameters, its rows and the sizes of single kernels; and tiny ones for a CPU."""

from dataclasses import dataclass

import numpy as np

from jaxpt.models.config import ModelConfig, RopeConfig, uniform_layers
from jaxpt.models.size import flops_per_token


@dataclass(frozen=True)
class Sizes:
    """Shapes of one run of the benchmark."""

    model: ModelConfig
    sequence: int
    batches: tuple[int, ...]  # rows of the train step, tried in this order
    attention_rows: int
    window: int
    document: int  # mean length of a packed document
    matmul: int  # of the square product that shows the card's ceiling
    vocab: int  # of the cross-entropy that is measured alone
    loss_rows: int
    experts: tuple[int, int, int, int]  # rows, experts, width in, width out of the grouped product
    repeats: int  # measured groups
    seconds: float  # about as long as one group


def llama(embed: int, heads: int, kv_heads: int, mlp: int, layers: int, vocab: int) -> ModelConfig:
    """A dense Llama with a tied head."""
    return ModelConfig(
        vocab_size=vocab,
        embed=embed,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=embed // heads,
        mlp=mlp,
        layers=uniform_layers(layers),
        tie_embeddings=True,
        rope=RopeConfig(theta=500_000.0),
        max_positions=32_768,
    )


# Llama 3.2 1B with 16 heads of 128 where that has 32 of 64: as many parameters and operations, 1.27 billion.
FULL = Sizes(
    model=llama(2048, 16, 8, 8192, 16, 128_256),
    sequence=4096,
    batches=(4, 8),
    attention_rows=4,
    window=1024,
    document=512,
    matmul=8192,
    vocab=151_936,
    loss_rows=4,
    experts=(32_768, 64, 2048, 1024),
    repeats=5,
    seconds=0.1,
)

# As many parameters in half the layers, each half as wide again: less that only moves memory beside each product.
WIDE = llama(3072, 24, 8, 12_288, 8, 32_768)

TINY = Sizes(
    model=llama(64, 4, 2, 128, 2, 512),
    sequence=128,
    batches=(2,),
    attention_rows=1,
    window=32,
    document=32,
    matmul=128,
    vocab=512,
    loss_rows=1,
    experts=(64, 4, 32, 16),
    repeats=1,
    seconds=0.0,
)


def documents(rows: int, sequence: int, mean: int, seed: int = 0) -> np.ndarray:
    """Returns segment ids `[B, S]` int32 from 1 on of rows filled with documents of random lengths around `mean`."""
    rng = np.random.default_rng(seed)
    out = np.zeros((rows, sequence), np.int32)
    for row in out:
        at, number = 0, 0
        while at < sequence:
            number += 1
            length = max(1, int(rng.gamma(2.0, mean / 2)))
            row[at : at + length] = number
            at += length
    return out


def visible_pairs(segment_ids: np.ndarray, window: int | None) -> int:
    """Number of (query, key) pairs that causal attention within documents and a window sees, over all rows."""
    total = 0
    for row in segment_ids:
        _, lengths = np.unique(row, return_counts=True)
        for n in map(int, lengths):
            w = n if window is None else min(window, n)
            total += w * (w + 1) // 2 + (n - w) * w
    return total


def positions(segment_ids: np.ndarray) -> np.ndarray:
    """Positions `[B, S]` int32 that begin at 0 with each document."""
    index = np.broadcast_to(np.arange(segment_ids.shape[1], dtype=np.int32), segment_ids.shape)
    begins = np.ones(segment_ids.shape, bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return index - np.maximum.accumulate(np.where(begins, index, 0), axis=1)


def visible_flops_per_token(sizes: Sizes, ids: np.ndarray) -> float:
    """The model's own count, with attention over the pairs that these documents leave visible."""
    c = sizes.model
    whole = flops_per_token(c, sizes.sequence)
    pairs = visible_pairs(ids, None) / ids.size - (sizes.sequence + 1) / 2
    return whole + 3 * 4 * len(c.layers) * c.heads * c.head_dim * pairs
