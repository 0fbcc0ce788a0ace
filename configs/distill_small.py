"""A student of half the quickstart's layers, distilled from the quickstart's model, in two minutes on two CPU cores.

jaxpt quickstart --workdir=runs/quickstart
jaxpt reshape --config=configs/reshape/subclone.py --from=runs/quickstart --to=runs/small --config.target.layers=2 \
    --config.transforms[0].depth=middle
jaxpt train --config=configs/distill_small.py --workdir=runs/distilled
"""

from ml_collections import ConfigDict

SOURCES = ("code", "prose", "arithmetic")


def get_config(student: str = "runs/small", folder: str = "runs/quickstart/data") -> ConfigDict:
    """Returns the config; `student` is a cut bundle, its teacher what it was cut from; `folder` holds the data."""
    c = ConfigDict()
    c.seed = 0
    c.init_from = student
    c.sources = {name: {"path": f"{folder}/packed/{name}"} for name in SOURCES}
    c.stages = [
        {
            "name": "distil",
            "duration": "120 steps",
            "batch_size": 16,
            "sequence_length": 256,
            "mixture": {"code": 0.7, "prose": 0.2, "arithmetic": 0.1},
            "objective": {
                "name": "distill",
                "alpha": {"start": 0.9, "end": 0.5},
                "temperature": {"start": 2.0, "end": 1.0},
                "hidden": {"start": 0.3, "end": 0.0},
            },
            "schedule": {"name": "cosine", "warmup": "5%"},
        }
    ]
    c.optimizer = {"learning_rate": 3e-3}
    c.checkpoint = {"every": "60 steps", "keep": 1}
    documents = {name: f"{folder}/text/{name}.held_out.jsonl" for name in SOURCES}
    c.evaluations = {"bits_per_byte": {"documents": documents, "max_documents": 200, "batch_size": 32}}
    c.metrics = {"every": 10}
    return c
