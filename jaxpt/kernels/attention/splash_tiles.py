"""Tile sizes of the splash kernels by chip: what one program holds in a TPU's vector memory at once.

Sizes have no effect on results but much on time: larger query tiles read keys and values less often. Those of v6e are
MaxText's for its published Mixtral runs (benchmarks/maxtext_trillium_model_configs.py, tpu-recipes-v0.1.2: `sa_block_q`
2048, keys 512), those of v5p likewise (DeepSeek-V3); those of TPU7x are the fastest that tokamax 0.0.17 measured
(data/autotuning/tpu7x: 64 heads of 128 over 8 kv heads, rows of 8,192). For v5e nothing is published: MaxText's smaller
query tiles. All fit the memory that XLA grants a kernel without flags, which a test compiles; none was timed by jaxpt.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """Queries and keys of a tile, and how many of its keys are multiplied at once."""

    queries: int
    keys: int
    keys_at_once: int


ANY = Tiles(512, 512, 512)  # fits everywhere
BY_CHIP = {  # by the start of what a device calls itself
    "TPU v5 lite": Tiles(1024, 512, 512),
    "TPU v5e": Tiles(1024, 512, 512),
    "TPU v5": Tiles(2048, 512, 512),  # v5p
    "TPU v6": Tiles(2048, 512, 512),
    "TPU7x": Tiles(2048, 2048, 512),
}


def tiles(device_kind: str, length: int, head_bytes: int) -> Tiles:
    """Returns the tiles for rows of `length` tokens, a multiple of 128: each a divisor of it, as large as listed.

    Args:
        device_kind: what the device calls itself.
        length: tokens of a row.
        head_bytes: bytes of one head of one token; above 256 (bfloat16, 128) tiles are those that fit everywhere.
    """
    listed = next((found for chip, found in BY_CHIP.items() if device_kind.startswith(chip)), ANY)
    if head_bytes > 256:
        listed = ANY
    keys = _divisor(listed.keys, length)
    return Tiles(_divisor(listed.queries, length), keys, _divisor(listed.keys_at_once, keys))


def _divisor(most: int, length: int) -> int:
    """The largest of `most`, its half, its quarter, … that divides `length`."""
    while length % most:
        most //= 2
    return most
