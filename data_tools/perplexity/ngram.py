"""An n-gram language model trained in place: interpolated Kneser-Ney over token hashes, all in sorted arrays.

Tokens are those of deduplication: folded words, characters in unspaced scripts. Perplexities are therefore comparable
within one language and one model, and mean nothing across them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.dedup import minhash
from data_tools.dedup import shingles as sh
from jaxpt.errors import JaxptError
from jaxpt.files.partial import whole_file

BOUNDARY = np.uint64(0)  # comes before the first token, so that beginnings have a history too
_GROWTH = np.uint64(0x9FB21C651E98DF25)


def _contexts(tokens: sh.Ragged, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes every token with what comes before it.

    Returns:
        grams `[order, T]` (row n - 1: the n tokens that end here) and histories `[order, T]` (the same without the
        last token; row 0 is 0), uint64.
    """
    lengths = tokens.lengths
    place = np.arange(len(tokens.values)) - np.repeat(tokens.offsets[:-1], lengths)
    grams = np.zeros((order, len(tokens.values)), dtype=np.uint64)
    histories = np.zeros_like(grams)
    grams[0] = sh.mix64(tokens.values)
    for n in range(1, order):
        back = np.zeros_like(tokens.values)
        back[n:] = tokens.values[:-n] if n < len(back) else back[n:]
        back[place < n] = BOUNDARY
        histories[n] = sh.mix64(histories[n - 1] * _GROWTH + sh.mix64(back + np.uint64(n)))
        grams[n] = sh.mix64(grams[0] + histories[n] * _GROWTH)
    return grams, histories


@dataclass(frozen=True)
class _Order:
    """Counts of one order: of each n-gram, and of each history (how often, and before how many different tokens)."""

    grams: np.ndarray  # [G] uint64, sorted
    counts: np.ndarray  # [G] uint32
    histories: np.ndarray  # [H] uint64, sorted
    totals: np.ndarray  # [H] uint32
    kinds: np.ndarray  # [H] uint32

    def look_up(self, grams: np.ndarray, histories: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns `(count, total, kinds)` of each pair as float64, zero where unseen."""

        def find(keys: np.ndarray, wanted: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            hit = keys[at] == wanted
            return [np.where(hit, column[at], 0).astype(np.float64) for column in columns]

        return (*find(self.grams, grams, self.counts), *find(self.histories, histories, self.totals, self.kinds))


class NgramModel:
    """Interpolated Kneser-Ney with one discount per order (Chen and Goodman 1999, section 4.1)."""

    def __init__(self, orders: Sequence[_Order], discounts: Sequence[float], path: str = "auto"):
        self.orders, self.discounts, self.path = list(orders), list(discounts), path
        self.vocabulary = len(self.orders[0].grams)

    @staticmethod
    def train(texts: Iterable[str], order: int = 3, max_tokens: int = 20_000_000, path: str = "auto") -> "NgramModel":
        """Counts `texts` until `max_tokens` tokens are read.

        Memory: about 16 bytes per token and order while counting, 12 bytes per distinct n-gram and 16 per distinct
        history afterwards.

        Raises:
            JaxptError: no tokens, or an order below 1.
        """
        if order < 1:
            raise JaxptError(f"perplexity: order={order} must be 1 or more")
        grams, histories, seen, batch = [], [], 0, []

        def count() -> int:
            tokens = minhash.hash_tokens(batch, path)
            batch.clear()
            pair = _contexts(tokens, order)
            grams.append(pair[0])
            histories.append(pair[1])
            return len(tokens.values)

        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size > sh.BLOCK:
                seen, size = seen + count(), 0
                if seen >= max_tokens:
                    break
        if batch:
            seen += count()
        if not seen:
            raise JaxptError("perplexity: the training text holds no words")
        orders, discounts = _count(np.concatenate(grams, axis=1), np.concatenate(histories, axis=1))
        return NgramModel(orders, discounts, path)

    def probabilities(self, tokens: sh.Ragged) -> np.ndarray:
        """Returns the probability of each token given the ones before it, `[T] float64`."""
        grams, histories = _contexts(tokens, len(self.orders))
        chance = np.full(len(tokens.values), 1.0 / (self.vocabulary + 1))  # one share for all unknown words
        for n, counts in enumerate(self.orders):
            count, total, kinds = counts.look_up(grams[n], histories[n])
            discount = self.discounts[n]
            seen = total > 0
            total = np.maximum(total, 1)
            mixed = np.maximum(count - discount, 0) / total + discount * kinds / total * chance
            chance = np.where(seen, mixed, chance)
        return chance

    def perplexities(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n] float64`: exp of the mean negative log-probability per token; nan for texts without tokens."""
        tokens = minhash.hash_tokens(texts, self.path)
        total = np.concatenate([[0.0], np.cumsum(-np.log(self.probabilities(tokens)))])
        with np.errstate(invalid="ignore"):
            return np.exp((total[tokens.offsets[1:]] - total[tokens.offsets[:-1]]) / tokens.lengths)

    def save(self, path: str | Path) -> None:
        """Writes the counts as one `.npz` file."""
        path = Path(path)
        arrays = {f"{name}{n}": a for n, order in enumerate(self.orders) for name, a in vars(order).items()}
        note = json.dumps({"format": 1, "discounts": self.discounts, "folding": sh.folding.VERSION})
        with whole_file(path, path.with_name(path.name + ".tmp.npz")) as temporary:
            np.savez(temporary, note=np.array(note), **arrays)

    @staticmethod
    def load(path: str | Path, signature_path: str = "auto") -> "NgramModel":
        """Reads what `save` wrote.

        Raises:
            JaxptError: no such file, or one that was written under another character folding.
        """
        if not Path(path).is_file():
            raise JaxptError(f"perplexity: n-gram model {path} does not exist; train one with --train")
        with np.load(path) as arrays:
            note = json.loads(str(arrays["note"]))
            if note["folding"] != sh.folding.VERSION:
                raise JaxptError(f"perplexity: {path} was counted with other character folding; train it again")
            names = ("grams", "counts", "histories", "totals", "kinds")
            count = len(note["discounts"])
            orders = [_Order(**{name: arrays[f"{name}{n}"] for name in names}) for n in range(count)]
        return NgramModel(orders, note["discounts"], signature_path)


def _count(grams: np.ndarray, histories: np.ndarray) -> tuple[list[_Order], list[float]]:
    """Counts each order: the highest by occurrence, lower ones by the number of different tokens before them."""
    order = len(grams)
    orders: list[_Order] = []
    discounts: list[float] = []
    weight_from: np.ndarray | None = None  # position of one occurrence of each distinct gram of the order above
    for n in range(order - 1, -1, -1):
        where = np.arange(grams.shape[1]) if weight_from is None else weight_from
        keys, first, counts = np.unique(grams[n, where], return_index=True, return_counts=True)
        contexts = histories[n, where[first]]
        known, inverse, kinds = np.unique(contexts, return_inverse=True, return_counts=True)
        totals = np.bincount(inverse, counts).astype(np.uint32)
        orders.insert(0, _Order(keys, counts.astype(np.uint32), known, totals, kinds.astype(np.uint32)))
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discounts.insert(0, float(once / max(once + 2 * twice, 1)) or 0.5)
        discounts[0] = min(max(discounts[0], 0.1), 0.95)  # tiny corpora may have no n-grams seen twice
        weight_from = where[first]
    return orders, discounts
