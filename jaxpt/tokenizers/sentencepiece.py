"""SentencePiece models (`tokenizer.model`)."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from jaxpt.errors import JaxptError
from jaxpt.tokenizers.interface import CharacterSpan, Tokenizer, encodable


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
        text = self._special_text(name)
        if text and self.piece(named := self._model.piece_to_id(text)) == text:
            return named
        own = getattr(self._model, f"{name}_id")()
        return own if own >= 0 else None

    def piece(self, i: int) -> str:
        """Returns the vocabulary entry of an id, as stored."""
        return self._model.id_to_piece(i)

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

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids."""
        return self._model.decode([int(i) for i in ids])
