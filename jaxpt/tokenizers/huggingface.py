"""Hugging Face tokenizers: `tokenizer.json`, or `vocab.json` with `merges.txt`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxpt.errors import JaxptError
from jaxpt.tokenizers.interface import Tokenizer

# Looked for where no tokenizer_config.json names the special tokens.
_USUAL = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|endoftext|>"),
    "pad": ("<pad>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>",),
}


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizers` tokenizer; encodes in Rust threads, without the GIL."""

    def __init__(self, inner: tokenizers.Tokenizer, files: Sequence[Path], settings: dict[str, Any]):
        """Wraps `inner`; special ids come from `settings` (tokenizer_config.json), else from their usual names."""
        super().__init__(files, settings)
        self._inner = inner
        inner.no_padding()
        inner.no_truncation()
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = (self._find(n) for n in ("bos", "eos", "pad", "unk"))

    def _find(self, name: str) -> int | None:
        key = f"{name}_token"
        if key in self.settings or "tokenizer_class" in self.settings:
            text = self._special_text(name)
            return None if text is None else self._inner.token_to_id(text)
        unk = getattr(self._inner.model, "unk_token", None) if name == "unk" else None
        names = (unk,) if unk else _USUAL[name]
        return next((i for n in names if (i := self._inner.token_to_id(n)) is not None), None)

    def piece(self, i: int) -> str:
        """Returns the vocabulary entry of an id, as stored; an empty string for an id that has none."""
        return self._inner.id_to_token(i) or ""

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Tokenizer.encode_with_offsets`."""
        encoded = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [(np.asarray(e.ids, np.int32), np.asarray(e.offsets, np.int64).reshape(-1, 2)) for e in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)


def read_json(file: Path) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        JaxptError: it is not a tokenizer description.
    """
    try:
        return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as e:  # the library raises bare exceptions
        raise JaxptError(f"{file} is not a Hugging Face tokenizer description: {str(e)[:120]}") from e


def read_byte_level_bpe(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """Reads a GPT-2 style vocabulary: byte-level BPE (Radford et al. 2019) without a prefix space."""
    inner = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([t for t in ("<|endoftext|>",) if inner.token_to_id(t) is not None])
    return inner
