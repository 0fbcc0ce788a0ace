"""What a packed source holds, as text: counts, options, and some of its rows."""

from collections.abc import Sequence

import numpy as np

from jaxpt import tokenizers
from jaxpt.cli.terminal import table, terminal_width
from jaxpt.data.packed import PackedSource
from jaxpt.errors import JaxptError
from jaxpt.tokenizers.fingerprints import accepts


def describe(source: PackedSource) -> str:
    """Returns a packed source's counts and options as a table."""
    facts: list[Sequence[object]] = [
        [k, source.facts[k]] for k in ("rows", "sequence_length", "tokens", "documents", "vocab_size", "dtype")
    ]
    facts += [["mean fill", source.mean_fill], ["fingerprint", source.fingerprint[:16]]]
    carried = "carried along" if source.tokenizer() is not None else "not carried along"
    facts += [["tokenizer", f"{source.tokenizer_fingerprint[:16]}, {carried}"]]
    facts += [[k, str(v)] for k, v in source.facts["options"].items()]
    return table([str(source.path), ""], facts)


def show_rows(source: PackedSource, count: int, tokenizer: str | None) -> str:
    """Returns `count` rows, their segments as text (as ids where there is no tokenizer).

    Args:
        source: an opened source.
        count: how many rows, evenly spaced.
        tokenizer: a path; None: the tokenizer that the source carries, if it does.

    Raises:
        JaxptError: the tokenizer is not the one the source was packed with.
    """
    words = tokenizers.load(tokenizer) if tokenizer else source.tokenizer()
    if words is not None and not accepts(words, source.tokenizer_fingerprint, str(source.path)):
        raise JaxptError(f"--tokenizer={tokenizer} is not the tokenizer {source.path} was packed with")
    lines = []
    for row in np.unique(np.linspace(0, source.rows - 1, min(count, source.rows)).astype(int)):
        batch = source.read([row])
        documents = source.row_documents(row)
        lines.append(f"\nrow {row}: {int(batch['segment_ids'].max())} segments")
        for segment, document in enumerate(documents, 1):
            ids = batch["tokens"][0][batch["segment_ids"][0] == segment]
            text = repr(words.decode(ids[:60]))[1:-1] if words else " ".join(map(str, ids[:24]))
            lines.append(f"  {document.hex()[:12]}  {len(ids):>6,} tokens  {text[:150]}"[: terminal_width()])
    return "\n".join(lines)
