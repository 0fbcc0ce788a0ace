"""`vocab.json` with `merges.txt`: byte-level BPE, split as the tokenizer's class splits in transformers, or refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from jaxpt.errors import JaxptError

# transformers 5, models/qwen2/tokenization_qwen2.py: numbers digit by digit, line breaks with the punctuation before.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2(inner: tokenizers.Tokenizer, prefix: bool) -> None:
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)


def _qwen2(inner: tokenizers.Tokenizer, prefix: bool) -> None:
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated", invert=False)
    rest = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, rest])


SPLITS: dict[str, Callable[[tokenizers.Tokenizer, bool], None]] = {
    "GPT2Tokenizer": _gpt2,
    "RobertaTokenizer": _gpt2,
    "Qwen2Tokenizer": _qwen2,
}


def read_vocab_and_merges(
    vocab: Path, merges: Path, name: str | None, settings: Mapping[str, Any], way_out: str
) -> tokenizers.Tokenizer:
    """Reads a byte-level BPE (Radford et al. 2019) as the class called `name` does; tokens told beside it come after.

    Args:
        vocab: `vocab.json`, ids by piece.
        merges: `merges.txt`.
        name: the tokenizer's class; None where nothing names one: GPT-2's, if the pieces are such as it makes.
        settings: of `tokenizer_config.json`.
        way_out: what errors say is to be done.

    Raises:
        JaxptError: a class whose way of splitting is not known here, files that are broken, or pieces that the
            splitting can never make.
    """
    kind = name or "GPT2Tokenizer"
    if kind not in SPLITS:
        raise JaxptError(f"{vocab}: a {kind} splits text in its own way; {way_out}")
    inner = _model(vocab, merges)
    SPLITS[kind](inner, settings.get("add_prefix_space") is True)
    inner.decoder = decoders.ByteLevel()
    if name is None:
        _check_unnamed(inner, vocab, way_out)
    return inner


def add_roberta_ends(inner: tokenizers.Tokenizer, special: Mapping[str, str | None], prefix: bool) -> None:
    """Gives `inner` the ends that a RoBERTa tokenizer puts around a text (`<s> … </s>`)."""
    ends = [(text, i) for n in ("sep", "cls") if (text := special[n]) and (i := inner.token_to_id(text)) is not None]
    if len(ends) == 2:
        inner.post_processor = processors.RobertaProcessing(ends[0], ends[1], True, prefix)


def _model(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as e:  # the library raises bare exceptions
        raise JaxptError(f"{vocab} and {merges.name} are no byte-level BPE: {str(e)[:120]}") from e


def _check_unnamed(inner: tokenizers.Tokenizer, vocab: Path, way_out: str) -> None:
    """Raises where the pieces betray another tokenizer than GPT-2's: other control tokens, or another splitting."""
    decoder, odd = decoders.ByteLevel(), []
    for piece in json.loads(vocab.read_text(encoding="utf-8")):
        if piece == "<|endoftext|>":
            continue
        text = decoder.decode([piece])
        control = piece.startswith("<|") and piece.endswith("|>") and len(piece) > 4
        if control or ("\ufffd" not in text and len(inner.pre_tokenizer.pre_tokenize_str(text)) > 1):
            odd.append(text)
    if odd:
        known = ", ".join(SPLITS)
        raise JaxptError(
            f"{vocab} holds {odd[0]!r}, which GPT-2's way of splitting never makes ({len(odd):,} such pieces); "
            f'name its class in tokenizer_config.json beside it ({{"tokenizer_class": …}}: {known}), or {way_out}'
        )
