"""Mask training on the quickstart's model, about three minutes on two CPU cores: four layers to three, widths cut.

jaxpt quickstart --workdir=runs/quickstart
jaxpt train --config=configs/reshape/shear_small.py --workdir=runs/masks
jaxpt reshape --config=configs/reshape/shear.py:finalise --from=runs/masks --to=runs/sheared
"""

from ml_collections import ConfigDict

SOURCES = ("code", "prose", "arithmetic")


def get_config(parent: str = "runs/quickstart/run", folder: str = "runs/quickstart/data") -> ConfigDict:
    """Returns the config; `parent` is the model that is masked, `folder` holds the data."""
    c = ConfigDict()
    c.seed = 0
    c.init_from = parent
    c.leave_out_seen = False
    c.sources = {name: {"path": f"{folder}/packed/{name}"} for name in SOURCES}
    c.stages = [
        {
            "name": "masks",
            "duration": "120 steps",
            "batch_size": 16,
            "sequence_length": 256,
            "mixture": {"code": 0.7, "prose": 0.2, "arithmetic": 0.1},
            "objective": {"name": "shear", "target": {"embed": 64, "layers": 3, "heads": 4, "mlp": 160}},
            "reweight": {"every": "40 steps", "reference": parent},
            "schedule": {"name": "cosine", "warmup": "10%", "end": 0.1},
        }
    ]
    c.optimizer = {"learning_rate": 2e-3, "weight_decay": 0.0}
    c.checkpoint = {"every": "60 steps", "keep": 1}
    documents = {name: f"{folder}/text/{name}.held_out.jsonl" for name in SOURCES}
    c.evaluations = {"bits_per_byte": {"documents": documents, "max_documents": 50, "batch_size": 32}}
    c.metrics = {"every": 10}
    return c
