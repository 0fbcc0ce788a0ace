"""Raw text to packed sources: duplicates and evaluation items out, encoded once, one packed source for each `source`.

    jaxpt-data run --config=configs/data/web.py:'raw/*.jsonl.gz' --workdir=data/web --config.tokenizer=TOKENIZER \
                   --config.eval='eval/*.jsonl.gz'
"""

from ml_collections import ConfigDict


def get_config(inputs: str) -> ConfigDict:
    """`inputs`: globs of raw text, comma-separated."""
    steps = [
        {"command": "dedup", "options": {"strictness": "balanced"}},
        {"command": "decontaminate"},
        {"command": "tokenize", "options": {"keep": "source"}},
        {"command": "pack", "options": {"sequence_length": 1024, "by": "source"}},
    ]
    return ConfigDict({"input": inputs, "tokenizer": "tokenizer", "workers": 0, "steps": steps})
