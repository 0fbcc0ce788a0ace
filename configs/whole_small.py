"""A whole pretraining in one run, in minutes on two CPU cores: general text, a long-context leg, four annealing stages.

jaxpt train --config=configs/whole_small.py:TEXT --workdir=runs/whole --config.tokenizer=TOKENIZER

TEXT is the folder of configs/anneal_small.py with the files of GENERAL and LONG beside them. The long leg takes rows
four times as long, of whole books, raises the rope's base and lets positions skip up to four times further still; its
tokens a step stay those of the stage before. Annealing begins with fresh moments. No row is used twice from the first
stage to the last, and `jaxpt plan` with the same --config counts all six stages at once.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

GENERAL = {
    "web": "noisy_web/c4_demo.jsonl.gz",
    "news": "labelled/ag_news_test.jsonl.gz",
    "speeches": "english/us_presidential_addresses.jsonl.gz",
}
LONG = {"books": "english/books.jsonl.gz"}


def get_config(folder: str = "text") -> ConfigDict:
    """Returns the config; `folder` holds the JSONL files."""
    c = _annealing().get_config(folder)
    c.sources.update({name: {"path": f"{folder}/{file}"} for name, file in {**GENERAL, **LONG}.items()})
    general = {
        "name": "general",
        "duration": "60 steps",
        "batch_size": 16,
        "sequence_length": 128,
        "mixture": dict.fromkeys(GENERAL, "size"),
        "learning_rate": 3e-3,
        "schedule": {"name": "wsd", "warmup": "10%", "decay": "20%"},
    }
    long = {
        "name": "long",
        "duration": "20 steps",
        "batch_size": 4,
        "sequence_length": 512,
        "mixture": {"books": 1.0},
        "learning_rate": 3e-4,
        "schedule": {"name": "constant"},
        "rope": {"theta": 100_000.0, "max_positions": 2048},
        "pose": {"target": 2048},
    }
    first, *rest = c.stages
    c.stages = [general, long, {**first, "load": "params"}, *rest]
    return c


def _annealing():
    """The four annealing stages, from the file beside this one."""
    spec = importlib.util.spec_from_file_location("anneal_small", Path(__file__).with_name("anneal_small.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
