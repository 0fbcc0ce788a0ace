"""Mask training (Sheared LLaMA, arXiv 2310.06694) to an exact shape, with its paper's and code's numbers, and the cut.

jaxpt train --config=configs/reshape/shear.py:1.3b --workdir=runs/masks
jaxpt reshape --config=configs/reshape/shear.py:finalise --from=runs/masks --to=SHEARED
jaxpt train --config=… --config.init_from=SHEARED --workdir=runs/continued

3,200 steps of 32 rows of 4,096 tokens, 0.42 B tokens in all; weights at 1e-4, gates and multipliers at 1; sparsity
rises over the first fifth. Domains are weighted by how far their losses are from the reference every 50 steps
(dynamic batch loading). `1.3b` and `2.7b` are the paper's shapes, from Llama 2 7B; `qwen3b` is a shape of 3.1 B from
Qwen2.5-14B, whose reference is the model of that size of its family. A variant with `_frozen` trains ReLU gates alone
(arXiv 2603.08065), distilled from the unmasked parent.

FOLDER holds one packed source (rows of 4,096 tokens, the parent's tokenizer) per name below, and in FOLDER/held_out a
JSONL file of held-out documents for each.
"""

from ml_collections import ConfigDict

REDPAJAMA = {
    "cc": 0.67,
    "github": 0.045,
    "book": 0.045,
    "stackexchange": 0.02,
    "wiki": 0.045,
    "arxiv": 0.025,
    "c4": 0.15,
}
CHOSEN = {"knowledge": 0.3, "math": 0.3, "code": 0.3, "general": 0.1}  # what the model is for, not what the web is
PARENTS = {"1.3b": "Llama-2-7B", "2.7b": "Llama-2-7B", "qwen3b": "Qwen2.5-14B"}
TARGETS = {
    "1.3b": {"embed": 2048, "kv_heads": 16, "layers": 24, "mlp": 5504},
    "2.7b": {"embed": 2560, "kv_heads": 20, "layers": 32, "mlp": 6912},
    "qwen3b": {"embed": 2048, "kv_heads": 4, "layers": 36, "mlp": 9216},
}
MIXTURES = {"1.3b": REDPAJAMA, "2.7b": REDPAJAMA, "qwen3b": CHOSEN}
REFERENCES = {  # of the paper's scaling law, nats per token; or a model that is measured
    "1.3b": "configs/reshape/shear_1.3b.json",
    "2.7b": "configs/reshape/shear_2.7b.json",
    "qwen3b": "Qwen2.5-3B",
}
FROZEN = {
    "gate": {"name": "relu"},
    "gates": {"learning_rate": 0.05, "weight_decay": 0.0},  # gates lie in [0, 1], unlike the other kind's log alpha
    "alpha": {"start": 2 / 3},  # the paper's loss is nll + 2 KL; here the shares add up to 1
    "temperature": {"start": 1.0},
}


def get_config(what: str = "1.3b") -> ConfigDict:
    """Returns the config; `what` is SHAPE, SHAPE_frozen or either with a comma and FOLDER, or finalise."""
    c = ConfigDict()
    if what == "finalise":
        c.transforms = [{"name": "shear"}]
        return c
    shape, _, folder = what.partition(",")
    frozen, shape, folder = shape.endswith("_frozen"), shape.removesuffix("_frozen"), folder or "data/packed"
    c.init_from = PARENTS[shape]
    names = MIXTURES[shape]
    c.sources = {name: {"path": f"{folder}/{name}"} for name in names}
    objective = {"name": "shear", "target": TARGETS[shape]}
    stage = {
        "name": "masks",
        "duration": "3200 steps",
        "batch_size": 32,
        "sequence_length": 4096,
        "mixture": dict(names),
        "schedule": {"name": "cosine", "warmup": "10%", "end": 0.1},
        "reweight": {"every": "50 steps", "reference": REFERENCES[shape]},
        "objective": objective | (FROZEN if frozen else {}),
    }
    if frozen:
        stage |= {"freeze": ("*",), "duration": "230 steps"}  # 30 M tokens
    c.stages = [stage]
    c.optimizer = {"learning_rate": 1e-4, "weight_decay": 0.0}
    c.compute = {"dtype": "bfloat16", "remat": "full"}
    c.checkpoint = {"every": "400 steps", "keep": 2}
    documents = {name: f"{folder}/held_out/{name}.jsonl" for name in names}
    c.evaluations = {"bits_per_byte": {"documents": documents, "max_documents": 500}}
    c.metrics = {"every": 10}
    return c
