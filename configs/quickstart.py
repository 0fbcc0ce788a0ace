"""The quickstart: a decoder of 0.6 M parameters on code, prose and arithmetic, in about three minutes on two CPU cores.

jaxpt quickstart --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

SOURCES = ("code", "prose", "arithmetic")


def get_config(folder: str = "runs/quickstart/data") -> ConfigDict:
    """Returns the config; `folder` holds the packed sources, the tokenizer and the held-out documents."""
    c = ConfigDict()
    c.seed = 0
    c.tokenizer = f"{folder}/tokenizer"
    c.model = {
        "vocab_size": 2048,
        "embed": 96,
        "layers": 4,
        "heads": 6,
        "kv_heads": 2,
        "head_dim": 16,
        "mlp": 256,
        "tie_embeddings": True,
        "max_positions": 256,
    }
    c.sources = {name: {"path": f"{folder}/packed/{name}"} for name in SOURCES}
    c.stages = [
        {
            "name": "main",
            "duration": "360 steps",
            "batch_size": 16,
            "sequence_length": 256,
            "mixture": {"code": 0.7, "prose": 0.2, "arithmetic": 0.1},
            "schedule": {"name": "wsd", "warmup": "8%", "decay": "30%", "decay_shape": "sqrt", "end": 0.0},
        }
    ]
    c.optimizer = {"learning_rate": 1e-2}
    c.checkpoint = {"every": "200 steps", "keep": 1}
    documents = {name: f"{folder}/text/{name}.held_out.jsonl" for name in SOURCES}
    c.evaluations = {"bits_per_byte": {"documents": documents, "max_documents": 200, "batch_size": 32}}
    c.metrics = {"every": 10}
    return c
