"""Find evaluation items that were edited: a word exchanged, a part left out. Short runs in common, close together.

An item's n-grams of `WIDTH` tokens are looked up in a document; those of one item that lie within a window of the
item's own length count together. What they cover of the item decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_tools.dedup import shingles as sh

WIDTH = 4  # tokens of a run in common: with one word exchanged, 9 tokens still hold two of them
FILTER_BITS = 24  # first look-up: a table of 2^24 flags
SLACK = 1.5  # a window of the document is so many times as long as the item


@dataclass(frozen=True)
class Gapped:
    """An item found in a document with gaps: tokens of the item that are there, and where in the document."""

    document: int
    item: int
    covered: int  # tokens of the item
    share: float  # of the item's tokens
    spans: tuple[tuple[int, int], ...]  # tokens of the document


class GappedTable:
    """The short n-grams of all items; memory about 24 bytes per token of the evaluation sets and 16 MB."""

    def __init__(self, tokens: sh.Ragged, take: np.ndarray, template: int, least: int, ratio: float):
        """Makes the table.

        Args:
            tokens: of the items.
            take: which items, `[n] bool`.
            template: n-grams that so many items have are wording, not content, and do not count.
            least: tokens of an item that must be there.
            ratio: share of the item's tokens that must be there.
        """
        self._least, self._ratio, self.sizes = least, ratio, tokens.lengths
        grams = sh.ngrams(tokens, WIDTH)
        items = np.repeat(np.arange(len(grams)), grams.lengths)
        places = np.arange(len(items)) - grams.offsets[:-1][items]
        good = (take & (tokens.lengths >= WIDTH))[items]
        values, items, places = grams.values[good], items[good], places[good]
        order = np.lexsort([places, items, values])
        values, items, places = values[order], items[order], places[order]
        new = np.append(True, values[1:] != values[:-1])[: len(values)]
        fresh = new | np.append(True, items[1:] != items[:-1])[: len(values)]
        group = np.cumsum(new) - 1
        few = np.bincount(group, fresh)[group] < template if len(group) else np.zeros(0, bool)
        self._values, self._items, self._places = values[few], items[few], places[few]
        self._filter = np.zeros(1 << FILTER_BITS, bool)
        self._filter[self._values >> np.uint64(64 - FILTER_BITS)] = True

    def match(self, tokens: sh.Ragged) -> Iterator[Gapped]:
        """Yields the items that documents hold."""
        grams = sh.ngrams(tokens, WIDTH)
        hits = np.flatnonzero(self._filter[grams.values >> np.uint64(64 - FILTER_BITS)])
        low = np.searchsorted(self._values, grams.values[hits])
        count = np.searchsorted(self._values, grams.values[hits], "right") - low
        hits, low, count = hits[count > 0], low[count > 0], count[count > 0]
        entry = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - low, count)
        at = np.repeat(hits, count)
        document = np.searchsorted(grams.offsets, at, "right") - 1
        at = at - grams.offsets[document]
        item, place = self._items[entry], self._places[entry]
        order = np.lexsort([place, at, item, document])
        document, item, at, place = document[order], item[order], at[order], place[order]
        new = np.append(True, (document[1:] != document[:-1]) | (item[1:] != item[:-1]))[: len(order)]
        begin = np.flatnonzero(new)
        stop = np.append(begin[1:], len(order))
        needed = np.maximum(self._least, np.ceil(self._ratio * self.sizes[item[begin]])).astype(np.int64)
        enough = (stop - begin) * WIDTH >= needed
        for a, b, need in zip(begin[enough].tolist(), stop[enough].tolist(), needed[enough].tolist()):
            size = int(self.sizes[item[a]])
            covered, spans = _windows(at[a:b], place[a:b], int(SLACK * size) + WIDTH, need)
            if spans:
                yield Gapped(int(document[a]), int(item[a]), covered, covered / size, tuple(spans))


def _windows(at: np.ndarray, place: np.ndarray, width: int, need: int) -> tuple[int, list[tuple[int, int]]]:
    """Returns the most tokens of an item that n-grams within `width` tokens of a document cover, and where `need` do.

    Args:
        at: where the n-grams lie in the document, ascending.
        place: where they lie in the item.
        width: of the window.
        need: tokens.
    """
    best, spans = 0, []
    last = -1
    for i, end in enumerate(np.searchsorted(at, at + width, "right").tolist()):
        if end == last:  # a window within the one before
            continue
        last = end
        covered = len(np.unique(place[i:end, None] + np.arange(WIDTH)))
        best = max(best, covered)
        if covered >= need:
            spans.append((int(at[i]), int(at[end - 1]) + WIDTH))
    return best, spans
