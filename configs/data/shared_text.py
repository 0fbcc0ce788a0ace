"""Text of many kinds to packed sources: each kind cleaned its own way, then everything deduplicated together.

The argument is a folder laid out as the shared test data (`noisy_web`, `chinese`, `english`, `code`, …, `eval`):

    jaxpt-data run --config=configs/data/shared_text.py:../shared/data --workdir=data/shared \
                   --config.tokenizer=../shared/data/tokenizers/llama_style
"""

from ml_collections import ConfigDict

# What the presets say of web pages is not true of chosen text: books are long and set with blank lines, tutorials are
# full of code and addresses, poems are short.
BOOKS = ["words.most=10000000", "duplicate_lines.on=false"]
OFF = ("words", "characters", "words_per_line", "few_word_lines", "punctuated_lines", "address_characters")
OFF += ("alphabetic_words", "stop_words")
TUTORIALS = ["language.least=0.4", "unspaced_letters.least=0.2", *(f"{rule}.on=false" for rule in OFF)]


def get_config(folder: str) -> ConfigDict:
    """`folder`: where the kinds of text lie."""
    page, kept = f"{folder}/noisy_web/html_readability_pages.jsonl.gz", "math sft labelled synthetic code domain_mix"
    web = [f"{folder}/noisy_web/{name}*.gz" for name in ("c4", "dolma", "redpajama")]
    steps = [
        {"command": "extract", "name": "pages", "inputs": [page]},
        {"command": "clean", "name": "web", "inputs": ["pages", *web], "options": {"preset": "harsh"}},
        {
            "command": "clean",
            "name": "chinese",
            "inputs": [f"{folder}/chinese"],
            "options": {"preset": "harsh-zh", "set": TUTORIALS},
        },
        {
            "command": "clean",
            "name": "prose",
            "inputs": [f"{folder}/english"],
            "options": {"preset": "gopher", "set": BOOKS},
        },
        {
            "command": "dedup",
            "inputs": [
                *("web", "chinese", "prose"),
                f"{folder}/noisy_web/neardup_book_editions.jsonl.gz",
                *(f"{folder}/{name}" for name in kept.split()),
            ],
        },
        {"command": "decontaminate"},
        {"command": "tokenize"},
        {"command": "pack", "options": {"sequence_length": 512, "by": "source"}},
    ]
    return ConfigDict({"input": page, "eval": f"{folder}/eval/*.gz", "workers": 0, "tokenizer": "", "steps": steps})
