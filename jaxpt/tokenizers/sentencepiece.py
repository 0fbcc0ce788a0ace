"""SentencePiece models (`tokenizer.model`)."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from jaxpt.errors import JaxptError
from jaxpt.tokenizers.interface import CharacterSpan, SpecialToken, Tokenizer, encodable


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, by the sentencepiece library."""

    def __init__(self, model: Path, files: Sequence[Path], settings: dict[str, Any]):
        """Reads `model`.

        Raises:
            JaxptError: the file is no SentencePiece model.
        """
        super().__init__(files, settings)
        self._model = SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(model.read_bytes())
        except RuntimeError as e:
            raise JaxptError(f"{model} is not a SentencePiece model (truncated or another format)") from e
        self.vocab_size = self._model.get_piece_size()
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = (self._find(n) for n in ("bos", "eos", "pad", "unk"))

    def _find(self, name: str) -> int | None:
        value = self.settings.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if text and self.piece(named := self._model.piece_to_id(text)) == text:
            return named
        own = getattr(self._model, f"{name}_id")()
        return own if own >= 0 else None

    def own_special(self) -> dict[str, str]:
        """Returns the special tokens of the model itself as settings: `bos_token` and so on."""
        ids = {name: getattr(self._model, f"{name}_id")() for name in ("bos", "eos", "pad", "unk")}
        return {f"{name}_token": self.piece(i) for name, i in ids.items() if i >= 0}

    def piece(self, i: int) -> str:
        """Returns the vocabulary entry of an id, as stored; an empty string for an id that has none."""
        return self._model.id_to_piece(i) if 0 <= i < self.vocab_size else ""

    def special_tokens(self) -> list[SpecialToken]:
        """As `Tokenizer.special_tokens`; the piece of the unknown is one."""
        model, size = self._model, self.vocab_size
        return [(i, model.id_to_piece(i), ()) for i in range(size) if model.is_control(i) or model.is_unknown(i)]

    @property
    def adds_bos(self) -> bool:
        """As `Tokenizer.adds_bos`; a SentencePiece model that says nothing of it has a BOS to be used."""
        return self.bos_id is not None and self.settings.get("add_bos_token") is not False

    @functools.cached_property
    def control_texts(self) -> tuple[str, ...]:
        """As `Tokenizer.control_texts`: the pieces that the model calls control pieces."""
        pieces = [self.piece(i) for i in range(self.vocab_size) if self._model.is_control(i)]
        ends = [self.piece(i) for i in (self.bos_id, self.eos_id) if i is not None]
        return tuple(dict.fromkeys([*pieces, *ends]))

    def _encode(self, texts: list[str], control_tokens: bool = False) -> list[list[int]]:
        if control_tokens:
            return [ids.tolist() for ids, _ in self.encode_with_offsets(texts, True)]
        if len(texts) == 1:
            return [self._model.encode(texts[0], out_type=int)]
        return self._model.encode(texts, out_type=int, num_threads=os.cpu_count() or 1)

    def encode_with_offsets(
        self,
        texts: Sequence[str],
        control_tokens: bool = False,
        literal: Sequence[Sequence[CharacterSpan]] | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Tokenizer.encode_with_offsets`."""
        out = []
        for i, text in enumerate(map(encodable, texts)):
            ids, offsets, at = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int64)], 0
            spans = self._control_spans(text, literal[i] if literal else ()) if control_tokens else []
            for start, stop in [*spans, (len(text), len(text))]:
                part = self._model.encode(text[at:start], return_type="offset_mapping")
                ids.append(np.asarray(part["ids"], np.int32))
                offsets.append(np.asarray(part["offsets"], np.int64).reshape(-1, 2) + at)
                if stop > start:
                    ids.append(np.asarray([self._model.piece_to_id(text[start:stop])], np.int32))
                    offsets.append(np.asarray([(start, stop)], np.int64))
                    at = stop
            out.append((np.concatenate(ids), np.concatenate(offsets)))
        return out

    def _decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)
