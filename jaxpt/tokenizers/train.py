"""Training a SentencePiece tokenizer on text."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from jaxpt.errors import JaxptError
from jaxpt.files.partial import whole_file
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.tokenizers.load import load


def train_sentencepiece(
    texts: Iterable[str], path: str | Path, vocab_size: int, *, kind: str = "bpe", sample_characters: int = 20_000_000
) -> Tokenizer:
    """Trains a tokenizer that loses nothing: identity normalisation, runs of spaces kept, bytes as fallback.

    Ids 0, 1, 2, 3 are unknown, BOS, EOS and padding.

    Args:
        texts: documents; read until `sample_characters` are seen.
        path: the `.model` file to write (its directory is made).
        vocab_size: number of pieces, at least 300 (256 bytes and the special tokens are among them).
        kind: "bpe" or "unigram".
        sample_characters: bound on what is read, hence on memory.

    Raises:
        JaxptError: no text, or too little of it for `vocab_size`.
    """
    path = Path(path)
    seen = 0

    def lines() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            if seen >= sample_characters:
                return
            seen += len(text)
            # one training sentence per line: pieces never cross a line break, which is a byte of its own
            yield from (part for part in text.split("\n") if part.strip())

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines()),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            character_coverage=0.9995,
            max_sentence_length=100_000,
            num_threads=os.cpu_count() or 1,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as e:
        reason = str(e).split("]")[-1].strip() or "no text"
        raise JaxptError(f"{path}: no tokenizer of {vocab_size} pieces from {seen:,} characters: {reason}") from e
    with whole_file(path, path.with_name(path.name + ".partial")) as partial:
        partial.write_bytes(model.getvalue())
    return load(path)
