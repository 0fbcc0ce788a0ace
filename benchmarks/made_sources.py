"""Three small packed sources of made documents, the same on every machine: for benchmarks that need no real text."""

from pathlib import Path

import numpy as np

from jaxpt.data import PackedWriter
from jaxpt.data.packing import Document, concat_and_split

VOCAB, FINGERPRINT = 512, "m" * 64  # no tokenizer made these ids


def make_sources(folder: Path, rows: int = 64, length: int = 64) -> dict[str, Path]:
    """Packs sources `a`, `b`, `c` of about `rows` rows of `length` tokens under `folder`; those already there stay."""
    paths = {name: folder / name for name in "abc"}
    for i, path in enumerate(paths.values()):
        if path.exists():
            continue
        rng = np.random.default_rng(i)
        documents = []
        while sum(len(d.tokens) for d in documents) < rows * length:
            steps = rng.integers(1, 3 + i, int(rng.integers(20, 200)))
            tokens = (rng.integers(VOCAB) + np.cumsum(steps)) % VOCAB
            documents.append(Document(tokens, np.ones(len(tokens), bool), len(documents)))
        with PackedWriter(path, length, VOCAB) as writer:
            for packed in concat_and_split(documents, length, 0):
                writer.write(packed)
            ids = [d.tokens.tobytes().ljust(16, b"\0")[:16] for d in documents]
            writer.finish(ids, [len(d.tokens) for d in documents], FINGERPRINT, {"packer": "concat", "made": i})
    return paths
