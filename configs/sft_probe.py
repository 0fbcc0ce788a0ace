"""A short supervised fine-tune on conversations, function calls included: what `jaxpt sft-probe` does to each model.

jaxpt sft-probe --run=RUN --data=CHATS --tasks=A,B --eval_data=EVALSETS

CHATS are conversations as `jaxpt-data chats` writes them. The loss is on what the assistant writes. The settings follow
the fine-tune of SmolLM2-135M and 360M (alignment-handbook, recipes/smollm2/sft/config_smol.yaml), cut short: the probe
is to show what a base model has learned, not to teach it.
"""

from ml_collections import ConfigDict

STEPS, BATCH, LENGTH = 300, 16, 1024  # 4.9 M tokens; with less data fewer steps


def get_config(data: str = "chats") -> ConfigDict:
    """Returns the config; `data` are conversations: a folder, a file or a glob."""
    c = ConfigDict()
    c.seed = 0
    chats = {"kind": "chat", "packer": "best_fit"}  # a conversation is cut only where it is longer than a row
    c.sources = {"chats": {"path": data, "pack": chats, "repeat": 2}}  # two epochs, as there
    c.stages = [
        {
            "name": "sft",
            "duration": f"{STEPS} steps",
            "batch_size": BATCH,
            "sequence_length": LENGTH,
            "mixture": {"chats": 1.0},
            "schedule": {"name": "cosine", "warmup": "10%", "end": 0.0},  # 10 % as there
            "load": "params",  # the moments of pretraining are those of other data and other rates
        }
    ]
    # there 1e-3 for batches of 1,048,576 tokens; these are 64 times smaller, and the root of that is 8
    c.optimizer = {"name": "adamw", "learning_rate": 1.25e-4, "weight_decay": 0.0, "clip_norm": 1.0}
    c.leave_out_seen = False  # every checkpoint is to see the same rows, also where the run saw some of them
    c.checkpoint = {"every": "100 steps", "keep": 1}
    c.metrics = {"every": 1, "tensorboard": False}
    return c
