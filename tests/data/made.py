"""Small packed sources whose every document names itself in its tokens."""

import numpy as np

from jaxpt.data.packed import PackedWriter
from jaxpt.data.packing import Document, best_fit

VOCAB = 70_000  # wider than uint16


def source(path, rows, length=8, tag=0, seed=0, vocab=VOCAB):
    """A source of `rows` rows, each one document of `length` tokens: (tag, number, noise …)."""
    rng = np.random.default_rng([seed, tag])
    ids, sizes, documents = [], [], []
    for n in range(rows):
        tokens = np.concatenate([[tag, n], rng.integers(0, 500, length - 2)])
        documents.append(Document(tokens, np.ones(length, bool), n))
        ids.append(tag.to_bytes(8, "little") + n.to_bytes(8, "little"))
        sizes.append(length)
    with PackedWriter(path, length, vocab, rows_per_shard=37) as writer:
        for packed in best_fit(documents, length, 0):
            writer.write(packed)
        return writer.finish(ids, sizes, "made", {"packer": "best_fit"})


def delivered(batch):
    """(tag, document) of each row, read out of the tokens that were delivered."""
    return [(int(a), int(b)) for a, b in batch["tokens"][:, :2]]
