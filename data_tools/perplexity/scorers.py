"""Where perplexities come from: the n-gram model, KenLM, or any language model given as a function."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxpt.errors import JaxptError


class Scorer(Protocol):
    """Anything with the method of `NgramModel` that the tails need."""

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n] float64`, nan for texts without tokens."""
        ...


class KenlmScorer:
    """A KenLM model file (ARPA or binary) that was trained elsewhere on text normalised by the caller."""

    def __init__(self, path: str | Path, normalise: Callable[[str], str] = lambda line: line.lower()):
        """Opens the model.

        Raises:
            JaxptError: the file or the package kenlm is missing.
        """
        if not Path(path).is_file():
            raise JaxptError(f"perplexity: KenLM model {path} does not exist")
        try:
            import kenlm
        except ImportError as error:
            raise JaxptError("perplexity: KenLM files need the package kenlm (it compiles); or use --train") from error
        self._model, self._normalise = kenlm.Model(str(path)), normalise

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n] float64`: over all lines of a text, one end-of-sentence token per line counted."""
        out = np.full(len(texts), np.nan)
        for i, text in enumerate(texts):
            lines = [self._normalise(line) for line in text.splitlines() if line.strip()]
            tokens = sum(len(line.split()) + 1 for line in lines)
            if tokens:
                out[i] = 10.0 ** (-sum(self._model.score(line) for line in lines) / tokens)
        return out


class ModelScorer:
    """A neural language model behind one function, fed with full batches of one shape so that it compiles once.

    A text longer than the sequence length is scored in windows that overlap by half, each token once, with at least
    half a window before it wherever the text has it.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Sequence[np.ndarray]],
        log_probabilities: Callable[[np.ndarray, np.ndarray], np.ndarray],
        batch_size: int = 8,
        sequence_length: int = 1024,
        max_tokens: int = 16_384,
    ):
        """Takes the model as two functions.

        Args:
            encode: texts to arrays of token ids, beginning-of-sequence included where the model wants it.
            log_probabilities: tokens `[B, S] int32` and segment ids `[B, S] int32` (1, or 0 for padding) to the natural
                log-probability of each token given those before it, `[B, S] float32`; column 0 is not read.
            batch_size: B.
            sequence_length: S.
            max_tokens: of each text, from its beginning.
        """
        if sequence_length < 4 or batch_size < 1:
            raise JaxptError(f"perplexity: batch_size={batch_size}, sequence_length={sequence_length} are too small")
        self._encode, self._score = encode, log_probabilities
        self._batch, self._length, self._most = batch_size, sequence_length, max_tokens

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n] float64`, nan for texts of fewer than two tokens."""
        windows = []  # (text, first scored column, tokens)
        for i, tokens in enumerate(self._encode(texts)):
            tokens = np.asarray(tokens)[: self._most]
            start, scored = 0, 1
            while scored < len(tokens):
                piece = tokens[start : start + self._length]
                windows.append((i, scored - start, piece))
                scored = start + len(piece)
                start += self._length // 2
        windows.sort(key=lambda window: -len(window[2]))
        total, count = np.zeros(len(texts)), np.zeros(len(texts))
        for at in range(0, len(windows), self._batch):
            batch = windows[at : at + self._batch]
            ids = np.zeros((self._batch, self._length), dtype=np.int32)
            segments = np.zeros_like(ids)
            for row, (_, _, piece) in enumerate(batch):
                ids[row, : len(piece)] = piece
                segments[row, : len(piece)] = 1
            chances = np.asarray(self._score(ids, segments), dtype=np.float64)
            for row, (text, first, piece) in enumerate(batch):
                total[text] -= chances[row, first : len(piece)].sum()
                count[text] += len(piece) - first
        with np.errstate(invalid="ignore"):
            return np.exp(total / np.where(count > 0, count, np.nan))
