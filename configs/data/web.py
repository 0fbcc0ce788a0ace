"""Raw text to packed sources: clean harshly, drop duplicates and evaluation items, encode once, pack by `source`.

    jaxpt-data run --config=configs/data/web.py:'raw/*.jsonl.gz' --workdir=data/web --config.tokenizer=TOKENIZER \
                   --config.eval='eval/*.jsonl.gz'

Without --config.eval nothing is decontaminated, and the command says so.
"""

from ml_collections import ConfigDict


def get_config(inputs: str) -> ConfigDict:
    """`inputs`: globs of raw text (JSONL, Parquet, WARC, HTML), comma-separated."""
    steps = [
        {"command": "clean", "options": {"preset": "harsh"}},
        {"command": "dedup", "options": {"strictness": "balanced"}},
        {"command": "decontaminate", "only_with": "eval"},
        {"command": "tokenize", "options": {"keep": "source"}},
        {"command": "pack", "options": {"sequence_length": 1024, "by": "source"}},
    ]
    return ConfigDict({"input": inputs, "tokenizer": "tokenizer", "workers": 0, "steps": steps})
