"""Tokenizers of the `tokenizers` library: from a `tokenizer.json`, or built as transformers builds the older forms."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxpt.errors import JaxptError
from jaxpt.tokenizers.classes import special_texts
from jaxpt.tokenizers.interface import FLAGS, SpecialToken, Tokenizer

# Looked for where no tokenizer_config.json names the special tokens.
_USUAL = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|endoftext|>"),
    "pad": ("<pad>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>",),
}


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizers` tokenizer; encodes in Rust threads, without the GIL."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        files: Sequence[Path],
        settings: dict[str, Any],
        name: str | None = None,
        before: Callable[[], Tokenizer] | None = None,
    ):
        """Wraps `inner`.

        Args:
            inner: with all its tokens.
            files: what it was read from.
            settings: of `tokenizer_config.json`; special ids come from it and from `name`, else from their usual names.
            name: the tokenizer's class, as from `classes.class_name`.
            before: makes of the files what earlier versions made of them; None: this very tokenizer.
        """
        super().__init__(files, settings)
        self._inner, self.name, self._before = inner, name, before
        inner.no_padding()
        inner.no_truncation()
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        told = special_texts(settings, name)
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = (self._find(n, told[n]) for n in _USUAL)

    @property
    def inner(self) -> tokenizers.Tokenizer:
        """What the library made, with all its tokens."""
        return self._inner

    def _find(self, name: str, told: str | None) -> int | None:
        if f"{name}_token" in self.settings or self.name is not None:
            return None if told is None else self._inner.token_to_id(told)
        unk = getattr(self._inner.model, "unk_token", None) if name == "unk" else None
        names = (unk,) if unk else _USUAL[name]
        return next((i for n in names if (i := self._inner.token_to_id(n)) is not None), None)

    def special_tokens(self) -> list[SpecialToken]:
        """As `Tokenizer.special_tokens`: the added tokens that are special."""
        added = sorted(self._inner.get_added_tokens_decoder().items())
        return [(i, t.content, tuple(f for f in FLAGS if getattr(t, f))) for i, t in added if t.special]

    @functools.cached_property
    def adds_bos(self) -> bool:
        """As `Tokenizer.adds_bos`; the own rule is the post-processor of `tokenizer.json`."""
        asked = self.settings.get("add_bos_token")
        if self.bos_id is None or isinstance(asked, bool):
            return self.bos_id is not None and bool(asked)
        plain = self._inner.encode("a", add_special_tokens=False).ids
        ids = self._inner.encode("a", add_special_tokens=True).ids
        return ids[: len(plain) + 1] == [self.bos_id, *plain]

    def as_read_before(self) -> Tokenizer:
        """As `Tokenizer.as_read_before`."""
        return self if self._before is None else self._before()

    def mistaken_for(self) -> Tokenizer | None:
        """As `Tokenizer.mistaken_for`: where this is a byte-level BPE."""
        described = json.loads(self._inner.to_str())
        model = described["model"]
        if model.get("type") != "BPE" or "ByteLevel" not in json.dumps(described["pre_tokenizer"]):
            return None
        return HuggingFaceTokenizer(as_gpt2(bpe_of(model)), self.files, self.settings, self.name)

    def piece(self, i: int) -> str:
        """Returns the vocabulary entry of an id, as stored; an empty string for an id that has none."""
        return (self._inner.id_to_token(i) if 0 <= i < self.vocab_size else None) or ""

    def token_text(self, i: int) -> str:
        """As `Tokenizer.token_text`; the library's piece of an added token may be its normalised text."""
        added = self._inner.get_added_tokens_decoder().get(i)
        return self.piece(i) if added is None else added.content

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Tokenizer.encode_with_offsets`."""
        encoded = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [(np.asarray(e.ids, np.int32), np.asarray(e.offsets, np.int64).reshape(-1, 2)) for e in encoded]

    def _decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, skip_special_tokens=False)


def read_json(file: Path) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        JaxptError: it is not a tokenizer description.
    """
    try:
        return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as e:  # the library raises bare exceptions
        raise JaxptError(f"{file} is not a Hugging Face tokenizer description: {str(e)[:120]}") from e


def bpe_of(model: Mapping[str, Any]) -> models.BPE:
    """Returns vocabulary and merges of a `tokenizer.json`'s model, without its other options."""
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    return models.BPE(model["vocab"], [(left, right) for left, right in pairs])


def as_gpt2(model: models.BPE) -> tokenizers.Tokenizer:
    """Returns what earlier versions made of any `vocab.json` with `merges.txt`: split as GPT-2 splits, one special
    token."""
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([t for t in ("<|endoftext|>",) if inner.token_to_id(t) is not None])
    return inner
