"""The prompts that both generators continue."""

import numpy as np

from benchmarks.gpu.sizes import Sizes


def lengths(sizes: Sizes) -> tuple[int, int, int]:
    """Prompts, tokens of each, tokens after each."""
    return (8, 128, 128) if sizes.sequence >= 1024 else (2, 8, 4)


def prompts(sizes: Sizes) -> list[list[int]]:
    """Random tokens."""
    batch, prompt, _ = lengths(sizes)
    drawn = np.random.default_rng(0).integers(0, sizes.model.vocab_size, (batch, prompt))
    return [[int(t) for t in row] for row in drawn]
