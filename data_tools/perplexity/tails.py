"""Cut both tails of the scores by quantiles, per language and source, never by one number for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxpt.errors import JaxptError

CURVE = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)  # quantiles reported per group


@dataclass(frozen=True)
class Tails:
    """Which quantiles stay: below `low` is repeated boilerplate, above `high` noise."""

    low: float = 0.05
    high: float = 0.9
    least: int = 100  # a (language, source) group with fewer texts is cut by its whole language's quantiles

    def check(self) -> None:
        """Raises JaxptError unless 0 <= low < high <= 1."""
        if not 0 <= self.low < self.high <= 1 or self.least < 1:
            raise JaxptError(f"perplexity: low={self.low}, high={self.high} need 0 <= low < high <= 1 and least >= 1")


@dataclass(frozen=True)
class TailCut:
    """The two values of one group, where they come from, and its quantile curve."""

    language: str
    source: str
    texts: int
    basis: str  # "source", "language", or "none": too few texts to know, all stay
    low: float
    high: float
    curve: tuple[float, ...]

    def verdict(self, score: float) -> str:
        """Returns "keep", "low", "high" or "empty" (no score)."""
        if np.isnan(score):
            return "empty"
        return "low" if score < self.low else "high" if score > self.high else "keep"


def cuts(
    scores: np.ndarray, languages: Sequence[str], sources: Sequence[str], tails: Tails
) -> dict[tuple[str, str], TailCut]:
    """Finds the cut of every (language, source).

    Args:
        scores: `[n]` perplexities, nan for texts without words (they take no part).
        languages: n names.
        sources: n names.
        tails: quantiles and the smallest group that has its own.

    Raises:
        JaxptError: quantiles that make no sense.
    """
    tails.check()
    languages, sources = np.asarray(languages, dtype=object), np.asarray(sources, dtype=object)
    real = ~np.isnan(scores)
    out = {}
    for language, source in sorted(set(zip(languages.tolist(), sources.tolist()))):
        mine = real & (languages == language)
        own = mine & (sources == source)
        basis, base = "source", scores[own]
        if len(base) < tails.least:
            basis, base = "language", scores[mine]
        if len(base) < tails.least:
            basis, low, high = "none", -np.inf, np.inf
        else:
            low, high = np.quantile(base, [tails.low, tails.high])
        curve = tuple(np.quantile(scores[own], CURVE)) if own.any() else ()
        out[language, source] = TailCut(language, source, int(own.sum()), basis, float(low), float(high), curve)
    return out
