"""Annealing Qwen2.5 in four stages, each led by one kind of data: knowledge, mathematics, code, all-round.

jaxpt train --config=configs/anneal_qwen2_5.py:FOLDER --workdir=runs/anneal --config.init_from=HF_DIR

FOLDER holds one packed source (rows of 4,096 tokens) per name below. Mixing all good data at once makes abilities
seesaw, so each stage leads with one kind; their order is the order of the best learning rate of each kind alone.
Learning rates, mixtures and tokens are the recipe's; "tens of billions of tokens" are 40 B here. It gives no batch
sizes and no shapes of decay: 4 M tokens, halved for the last two stages, and a cosine from each stage's peak to that of
the next. The best checkpoint of a stage need not be its last: one per 10 B tokens is kept.
"""

from ml_collections import ConfigDict

GROUPS = {
    "knowledge": {"textbooks": 0.3, "exam_questions": 0.5, "multiple_choice": 0.1},  # as in stage 1
    "math": {"math_synthetic": 0.7, "math_web": 0.3},  # much of it synthetic
}
OTHERS = ("code", "general", "function_calling")
PEAKS = (3e-4, 8e-5, 5e-5, 3e-5, 0.0)
STAGES = (
    (
        "knowledge",
        "120B tokens",
        1024,
        {"textbooks": 0.3, "exam_questions": 0.5, "multiple_choice": 0.1, "general": 0.1},
    ),
    ("math", "40B tokens", 1024, {"knowledge": 0.4, "math": 0.6}),
    ("code", "40B tokens", 512, {"knowledge": 0.2, "math": 0.4, "code": 0.4}),
    # The source's figures sum to 1.05; weights are ratios, so that knowledge gets 0.15 / 1.05 and so on.
    (
        "all_round",
        "40B tokens",
        512,
        {"knowledge": 0.15, "math": 0.25, "code": 0.25, "general": 0.1, "function_calling": 0.3},
    ),
)


def mixture(parts: dict[str, float]) -> dict[str, object]:
    """Returns the stage's mixture with knowledge and math as groups of sources."""
    return {n: {"weight": w, "sources": GROUPS[n]} if n in GROUPS else w for n, w in parts.items()}


def get_config(folder: str = "data/packed") -> ConfigDict:
    """Returns the config; `folder` holds the packed sources."""
    c = ConfigDict()
    c.init_from = "Qwen2.5-7B"
    names = [*GROUPS["knowledge"], *GROUPS["math"], *OTHERS]
    c.sources = {name: {"path": f"{folder}/{name}"} for name in names}
    c.stages = [
        {
            "name": name,
            "duration": duration,
            "batch_size": rows,
            "sequence_length": 4096,
            "mixture": mixture(parts),
            "mixture_unit": "tokens",
            "learning_rate": peak,
            "schedule": {"name": "cosine", "warmup": "1%", "end": after / peak},
        }
        for (name, duration, rows, parts), peak, after in zip(STAGES, PEAKS, PEAKS[1:])
    ]
    c.compute = {"dtype": "bfloat16", "remat": "full"}
    c.checkpoint = {"every": "1B tokens", "keep": 2, "keep_every": "10B tokens"}
    c.metrics = {"every": 10}
    return c
