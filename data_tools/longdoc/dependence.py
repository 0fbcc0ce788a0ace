"""Does a long text need its length? What far context predicts that near context does not."""

import zlib
from dataclasses import dataclass

import numpy as np

from data_tools.dedup import minhash
from data_tools.dedup import shingles as sh
from data_tools.perplexity.ngram import NgramModel
from jaxpt.errors import JaxptError

CACHE_WEIGHT = 0.5  # of what was read, against the background; far and near share it where far is allowed
LEAST_GAIN = 0.02  # nats per token; pieces of many texts of one kind, joined, mostly stay below (docs/dedup.md)
UNIQUE_LINES, COMPRESSION = 0.6, 0.15  # below are logs and tables, and generated text
VOCABULARY = 50_000  # of the uniform background that is used when none is given


@dataclass(frozen=True)
class Dependence:
    """What distance adds, and what betrays logs and tables."""

    tokens: int
    gain: float  # nats per token: far + near context against near alone, over tokens that have far context
    far_reuse: float  # share of those tokens that occurred far before and not near
    unique_lines: float  # share of non-empty lines that occur once; logs and tables repeat theirs
    compression: float  # compressed bytes / bytes; very low: generated text

    def against(self, least_tokens: int = 1, least_gain: float = LEAST_GAIN) -> tuple[str, float] | None:
        """Returns why a long document is dropped, `(rule, value)`: short, lines, compression or gain."""
        if self.tokens < least_tokens:
            return "short", self.tokens
        if self.unique_lines < UNIQUE_LINES:
            return "lines", self.unique_lines
        if self.compression < COMPRESSION:
            return "compression", self.compression
        return None if self.gain > least_gain else ("gain", self.gain)


def _counts_before(tokens: np.ndarray, near: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns how often each token occurred before its place: anywhere, and among the last `near` tokens."""
    order = np.argsort(tokens, kind="stable")
    group = np.cumsum(np.concatenate([[0], tokens[order][1:] != tokens[order][:-1]])) if len(order) else order
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])) if len(order) else order
    rank = np.arange(len(order)) - starts[group] if len(order) else order
    keyed = group * (len(tokens) + 1) + order  # sorted: by token, then by place
    first_near = np.searchsorted(keyed, group * (len(tokens) + 1) + np.maximum(order - near, 0))
    close = np.arange(len(order)) - first_near
    every, recent = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.int64)
    every[order], recent[order] = rank, close
    return every, recent


def dependence(text: str, near: int = 1024, background: NgramModel | None = None) -> Dependence:
    """Measures one text.

    Every token beyond the first `near` is predicted twice by word counts mixed with a background: from the last `near`
    tokens, and from those and everything before them. Text that goes on about the same things gains; unrelated texts
    joined together lose.

    Args:
        text: the document.
        near: tokens that count as near.
        background: for the probability of words in general; uniform when None.

    Raises:
        JaxptError: `near` below 1.
    """
    if near < 1:
        raise JaxptError(f"longdoc: near={near} must be 1 or more tokens")
    tokens = minhash.hash_tokens([text]).values
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    unique = len(set(lines)) / max(len(lines), 1)
    raw = text.encode("utf-8", "replace")
    compression = len(zlib.compress(raw, 6)) / max(len(raw), 1)
    if len(tokens) <= near:
        return Dependence(len(tokens), 0.0, 0.0, unique, compression)
    every, recent = _counts_before(tokens, near)
    place = np.arange(len(tokens))
    scored = place >= near
    every, recent, place = every[scored], recent[scored], place[scored]
    general = np.full(len(tokens), 1.0 / VOCABULARY)
    if background is not None:
        general = background.probabilities(sh.Ragged(tokens, np.array([0, len(tokens)])))
    base = (1 - CACHE_WEIGHT) * general[scored]
    close, all_before = recent / near, every / place
    with_far = base + CACHE_WEIGHT * (close + all_before) / 2
    gain = np.log(with_far) - np.log(base + CACHE_WEIGHT * close)
    reuse = (recent == 0) & (every > 0)
    return Dependence(len(tokens), float(gain.mean()), float(reuse.mean()), unique, compression)
