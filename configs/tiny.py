"""A model of 1.0 M parameters (vocabulary 2,048) on one packed source: the smallest real run, for a laptop's CPU.

jaxpt train --config=configs/tiny.py:PACKED_SOURCE --workdir=runs/tiny
"""

from ml_collections import ConfigDict


def get_config(source: str = "data/packed") -> ConfigDict:
    """Returns the config; `source` is a packed source with rows of 256 tokens."""
    c = ConfigDict()
    c.model = {"preset": "tiny-1m"}
    c.sources = {"text": {"path": source}}
    c.stages = [
        {
            "name": "main",
            "duration": "500 steps",
            "batch_size": 16,
            "sequence_length": 256,
            "mixture": {"text": 1.0},
            "schedule": {"name": "wsd", "warmup": "20 steps", "decay": "20%", "decay_shape": "sqrt", "end": 0.0},
        }
    ]
    c.optimizer = {"learning_rate": 3e-3}
    c.checkpoint = {"every": "100 steps", "keep": 2}
    return c
