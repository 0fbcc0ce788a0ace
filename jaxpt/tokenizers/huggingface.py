"""Tokenizers of the `tokenizers` library: from a `tokenizer.json`, or built as transformers builds the older forms."""

import functools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxpt.errors import JaxptError
from jaxpt.files.strangers import read_text
from jaxpt.tokenizers.classes import special_texts
from jaxpt.tokenizers.interface import FLAGS, CharacterSpan, SpecialToken, Tokenizer, encodable

HOLES = 16  # of so many ids at least one has a token, in a vocabulary of any size
# Looked for where no tokenizer_config.json names the special tokens.
_USUAL = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|endoftext|>"),
    "pad": ("<pad>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>",),
}


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizers` tokenizer; encodes in Rust threads, without the GIL.

    The library reads every control token that a text spells as such. What is text is therefore encoded by a copy in
    which those tokens have names that nobody can spell.
    """

    tokens_when_spelled = True

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
        ids = inner.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=0) + 1
        if self.vocab_size > HOLES * max(len(ids), 4096):
            raise JaxptError(f"{files[0]} has {len(ids):,} tokens and one with the id {self.vocab_size - 1:,}")
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

    @functools.cached_property
    def control_texts(self) -> tuple[str, ...]:
        """As `Tokenizer.control_texts`: the added tokens that are special, BOS, EOS and padding."""
        added = {i: t.content for i, t in self._inner.get_added_tokens_decoder().items() if t.special and t.content}
        ends = {i: self.piece(i) for i in (self.bos_id, self.eos_id, self.pad_id) if i is not None}
        return tuple(dict.fromkeys({**ends, **added}.values()))

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """A name for each control token that no text spells, since it is drawn anew in each process."""
        return {text: f"\ufdd3{secrets.token_hex(8)}{i:x}\ufdd3" for i, text in enumerate(self.control_texts)}

    @functools.cached_property
    def _text(self) -> tokenizers.Tokenizer:
        return renamed(self._inner, self._names) if self._names else self._inner

    def _encode(self, texts: list[str], control_tokens: bool = False) -> list[list[int]]:
        inner = self._inner if control_tokens else self._text
        return [e.ids for e in inner.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_offsets(
        self,
        texts: Sequence[str],
        control_tokens: bool = False,
        literal: Sequence[Sequence[CharacterSpan]] | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Tokenizer.encode_with_offsets`."""
        inner = self._inner if control_tokens else self._text
        encoded = inner.encode_batch(list(map(encodable, texts)), add_special_tokens=False)
        out = [(np.asarray(e.ids, np.int32), np.asarray(e.offsets, np.int64).reshape(-1, 2)) for e in encoded]
        for i, spans in enumerate(literal or ()):
            if control_tokens and spans:
                out[i] = self._encode_apart(encodable(texts[i]), spans)
        return out

    def _encode_apart(self, text: str, literal: Sequence[CharacterSpan]) -> tuple[np.ndarray, np.ndarray]:
        """A text in which some spelled control tokens are such and some, the `literal` ones, are not."""
        parts: list[str] = []
        begin: list[int] = []  # where each character of the new text begins in the old one, and where it ends
        end: list[int] = []
        last = 0
        for start, stop in [*self._control_spans(text, literal), (len(text), len(text))]:
            name = self._names.get(text[start:stop], "")
            parts += [text[last:start], name]
            begin += [*range(last, start), *([start] * len(name))]
            end += [*range(last + 1, start + 1), *([stop] * len(name))]
            last = stop
        (encoded,) = self._text.encode_batch(["".join(parts)], add_special_tokens=False)
        begin.append(len(text))
        offsets = [(begin[a], end[b - 1] if b > a else begin[a]) for a, b in encoded.offsets]
        return np.asarray(encoded.ids, np.int32), np.asarray(offsets, np.int64).reshape(-1, 2)

    def _decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, skip_special_tokens=False)


def read_json(file: Path) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        JaxptError: it is not a tokenizer description.
    """
    try:
        return tokenizers.Tokenizer.from_str(read_text(file))
    except JaxptError:
        raise
    except Exception as e:  # the library raises bare exceptions
        raise JaxptError(f"{file} is not a Hugging Face tokenizer description: {str(e)[:120]}") from e


def renamed(inner: tokenizers.Tokenizer, names: Mapping[str, str]) -> tokenizers.Tokenizer:
    """Returns a copy of a tokenizer in which some tokens have other names and the same ids; no merge leads to them."""
    facts = json.loads(inner.to_str())
    for token in facts["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False}
    model = facts["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    elif vocabulary is not None:  # Unigram: pieces with their scores, in the order of their ids
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if names.keys().isdisjoint((a, b, a + b))]
    facts["post_processor"] = None  # adds special tokens, by their names
    return tokenizers.Tokenizer.from_str(json.dumps(facts))


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
