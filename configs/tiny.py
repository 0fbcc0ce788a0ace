"""A model of about a million parameters on one packed source, whatever its vocabulary, rows and size.

jaxpt train --config=configs/tiny.py:PACKED_SOURCE --workdir=runs/tiny

The tokenizer is the one that the source carries. Rows are used once: 500 steps of 16 rows, fewer, and smaller
batches, where there are fewer. Text works too, with --config.tokenizer (of at most 2,048 pieces, in rows of 256).
"""

from ml_collections import ConfigDict

from jaxpt.data.origins import is_text
from jaxpt.data.packed import PackedSource

STEPS, BATCH, LENGTH = 500, 16, 256
LEAST = 5  # steps, for which a batch of few rows becomes smaller
VOCABULARY, POSITIONS = 2048, 1024  # the preset's


def get_config(source: str = "data/packed") -> ConfigDict:
    """Returns the config; `source` is a packed source."""
    c = ConfigDict()
    c.model = {"preset": "tiny-1m"}
    batch, length, steps = BATCH, LENGTH, STEPS
    if not is_text(source):
        packed = PackedSource.open(source)
        length = packed.sequence_length
        batch = min(BATCH, 1 << (max(packed.rows // LEAST, 1).bit_length() - 1))  # a power of two, which devices divide
        steps = min(STEPS, packed.rows // batch)
        if packed.vocab_size != VOCABULARY:
            c.model.vocab_size = packed.vocab_size
        if length > POSITIONS:
            c.model.max_positions = length
    c.sources = {"text": {"path": source}}
    warmup = "20 steps" if steps >= 100 else "10%"
    schedule = {"name": "wsd", "warmup": warmup, "decay": "20%", "decay_shape": "sqrt", "end": 0.0}
    c.stages = [
        {
            "name": "main",
            "duration": f"{steps} steps",
            "batch_size": batch,
            "sequence_length": length,
            "mixture": {"text": 1.0},
            "schedule": schedule if steps >= LEAST else {"name": "constant"},
        }
    ]
    c.optimizer = {"learning_rate": 3e-3}
    c.checkpoint = {"every": "100 steps", "keep": 2}
    return c
