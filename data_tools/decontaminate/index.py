"""Index evaluation items by their n-grams and match documents against them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from data_tools.decontaminate.gapped import GappedTable
from data_tools.dedup import folding, minhash
from data_tools.dedup import shingles as sh
from jaxpt.errors import JaxptError

FILTER_BITS = 24  # first look-up: a table of 2^24 flags, almost every n-gram of a clean document stops there


@dataclass(frozen=True)
class Rules:
    """When a document counts as contaminated by an evaluation item.

    Any common run of `long` tokens (GPT-3 used 13), or at least `ratio` of the item's distinct `short`-grams (PaLM
    used 70 % of 8-grams). An item with fewer than `short` tokens matches as a whole if it has at least `shortest`,
    and is reported as unchecked if not. An item that was edited is found by `gapped_ratio` of its tokens, at least
    `gapped_tokens`, in runs of four within one and a half times its length (0: not looked for). N-grams that `template`
    or more items share are the set's wording, not its content, and are ignored.
    """

    long: int = 13
    short: int = 8
    ratio: float = 0.7
    shortest: int = 5
    template: int = 5
    gapped_ratio: float = 0.4
    gapped_tokens: int = 8


@dataclass(frozen=True)
class Item:
    """One evaluation item: the set it belongs to, its id there, and its text."""

    task: str
    id: str
    text: str


@dataclass(frozen=True)
class Match:
    """What tied a document to an item: the rule, the value that tripped it, and where."""

    rule: str  # "long" (tokens in common), "ratio" (share of the item's n-grams), "whole" or "gapped" (share of tokens)
    item: Item
    value: float
    spans: tuple[tuple[int, int], ...]  # tokens of the document that match, from and to, ascending

    @property
    def token(self) -> int:
        """First matching token of the document."""
        return self.spans[0][0]


class _Table:
    """N-gram hash to the items that have it."""

    def __init__(self, grams: sh.Ragged, template: int):
        items = np.repeat(np.arange(len(grams)), grams.lengths)
        pairs = np.unique(np.stack([grams.values, items.astype(np.uint64)], axis=1), axis=0)
        count = np.unique(pairs[:, 0], return_counts=True)[1]
        keep = np.repeat(count < template, count)
        self.values, self.items = pairs[keep, 0], pairs[keep, 1].astype(np.int64)
        self.sizes = np.bincount(self.items, minlength=len(grams))
        self.filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        self.filter[self.values >> np.uint64(64 - FILTER_BITS)] = True

    def hits(self, values: np.ndarray) -> np.ndarray:
        """Returns the positions in `values` that some item has."""
        maybe = np.flatnonzero(self.filter[values >> np.uint64(64 - FILTER_BITS)])
        if not len(maybe) or not len(self.values):
            return maybe[:0]
        slots = np.minimum(np.searchsorted(self.values, values[maybe]), len(self.values) - 1)
        return maybe[self.values[slots] == values[maybe]]

    def owners(self, value: np.uint64) -> np.ndarray:
        """Returns the items that have this n-gram."""
        return self.items[np.searchsorted(self.values, value) : np.searchsorted(self.values, value, "right")]


class ItemIndex:
    """Evaluation items ready to be looked for; memory about 56 bytes per token of the evaluation sets and 64 MB."""

    def __init__(self, items: Sequence[Item], rules: Rules | None = None, path: str = "auto"):
        """Indexes `items`.

        Args:
            items: what must not be trained on.
            rules: when a document matches.
            path: see `minhash.signatures`.

        Raises:
            JaxptError: no items, or rules that contradict each other.
        """
        self.rules, self.path = rules or Rules(), path
        self.items = list({item.text: item for item in reversed(items)}.values())[::-1]  # copies are one item
        if not self.items:
            raise JaxptError("decontaminate: the evaluation sets hold no items")
        if not 1 <= self.rules.shortest <= self.rules.short <= self.rules.long or not 0 < self.rules.ratio <= 1:
            raise JaxptError(f"decontaminate: rules {self.rules} need shortest <= short <= long and 0 < ratio <= 1")
        if not 0 <= self.rules.gapped_ratio <= 1 or self.rules.gapped_tokens < 1:
            raise JaxptError(f"decontaminate: rules {self.rules} need 0 <= gapped_ratio <= 1 and gapped_tokens >= 1")
        tokens = minhash.hash_tokens([item.text for item in self.items], path)
        counts = tokens.lengths
        self._tables = {}
        spans = {
            "long": (self.rules.long, counts >= self.rules.long),
            "ratio": (self.rules.short, counts >= self.rules.short),
        }
        for width in range(self.rules.shortest, self.rules.short):
            spans[f"whole{width}"] = (width, counts == width)
        for name, (width, take) in spans.items():
            if take.any():
                self._tables[name] = width, _Table(_only(sh.ngrams(tokens, width), take), self.rules.template)
        self._gapped = None
        if self.rules.gapped_ratio:
            least, ratio = self.rules.gapped_tokens, self.rules.gapped_ratio
            self._gapped = GappedTable(tokens, counts >= least, self.rules.template, least, ratio)
        indexed = sum((t.sizes for _, t in self._tables.values()), np.zeros(len(self.items), np.int64))
        self.unchecked = [self.items[i] for i in np.flatnonzero(indexed == 0)]  # too short, or nothing but template

    def match(self, texts: Sequence[str]) -> list[list[Match]]:
        """Returns, per document, its matches: at most one per rule and item, strongest rule first."""
        tokens = minhash.hash_tokens(texts, self.path)
        out: list[list[Match]] = [[] for _ in texts]
        for name, (width, table) in self._tables.items():
            grams = sh.ngrams(tokens, width)
            hits = table.hits(grams.values)
            documents = np.searchsorted(grams.offsets, hits, "right") - 1
            for document in np.unique(documents):
                if tokens.lengths[document] < width:
                    continue  # its only n-gram is shorter than the rule's
                mine = hits[documents == document]
                out[document] += self._judge(name, width, table, grams.values, mine, int(grams.offsets[document]))
        for seen in self._gapped.match(tokens) if self._gapped else ():
            item = self.items[seen.item]
            before = next((i for i, m in enumerate(out[seen.document]) if m.item is item), None)
            if before is None:
                out[seen.document].append(Match("gapped", item, seen.share, merged(seen.spans)))
            else:  # what lies around the run in common is the item too
                match = out[seen.document][before]
                out[seen.document][before] = replace(match, spans=merged([*match.spans, *seen.spans]))
        return out

    def _judge(
        self, name: str, width: int, table: "_Table", values: np.ndarray, hits: np.ndarray, begin: int
    ) -> list[Match]:
        """Returns the matches of one document, whose tokens begin at `begin`, by the rule `name`."""
        seen: dict[int, dict[int, list[int]]] = {}  # item -> distinct n-gram -> positions
        for hit in hits:
            for item in table.owners(values[hit]):
                seen.setdefault(int(item), {}).setdefault(int(values[hit]), []).append(int(hit) - begin)
        matches = []
        for item, grams in sorted(seen.items()):
            share = len(grams) / table.sizes[item]
            if name == "ratio" and share < self.rules.ratio:
                continue
            places = sorted(at for positions in grams.values() for at in positions)
            spans = merged([(at, at + width) for at in places])
            value = share if name == "ratio" else float(width + _run(sorted(p[0] for p in grams.values())) - 1)
            matches.append(Match(name.rstrip("0123456789"), self.items[item], value, spans))
        return matches


def merged(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Returns spans in order, those that touch joined."""
    out: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], stop)
        else:
            out.append((start, stop))
    return tuple(out)


def _only(grams: sh.Ragged, take: np.ndarray) -> sh.Ragged:
    """Empties the texts that are not taken, keeping their numbers."""
    lengths = np.where(take, grams.lengths, 0)
    return sh.Ragged(grams.values[np.repeat(take, grams.lengths)], np.concatenate([[0], np.cumsum(lengths)]))


def _run(positions: Sequence[int]) -> int:
    """Returns the length of the longest run of consecutive positions."""
    best = length = 1
    for before, now in pairwise(positions):
        length = length + 1 if now == before + 1 else 1
        best = max(best, length)
    return best


def excerpt(text: str, token: int, width: int = 13) -> str:
    """Returns the piece of `text` from its `token`-th token on, `width` tokens long, as it is written there."""
    begin, end = folding.token_spans(text)
    return text[begin[token] : end[min(token + width, len(end)) - 1]] if token < len(begin) else ""
