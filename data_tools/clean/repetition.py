"""How much of a text repeats itself: lines, paragraphs, the most frequent n-gram, all repeated n-grams.

Whether an n-gram repeats is decided for a whole batch at a time: the n-grams of n words are grouped by the pair (group
of the first n - 1 words, group of the last n - 1 words), and only words inside repeated (n - 1)-grams are looked at
again, so that after the pairs little is left to sort. No hash decides anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.clean.words import Words


def duplicates(parts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many parts of each text are repeats of an earlier one, and their characters, `[n] int64` each."""
    count, size = [], []
    for mine in parts:
        distinct = set(mine)
        count.append(len(mine) - len(distinct))
        size.append(sum(map(len, mine)) - sum(map(len, distinct)) if count[-1] else 0)
    return np.array(count, np.int64), np.array(size, np.int64)


@dataclass(frozen=True)
class Groups:
    """N-grams that occur more than once in their text: where they begin and which are equal."""

    width: int
    starts: np.ndarray  # [M] int64, ascending positions in the batch's words
    groups: np.ndarray  # [M] int64: the same number for equal n-grams of one text
    counts: np.ndarray  # [groups] int64: how often each occurs


def _grouped(width: int, starts: np.ndarray, keys: np.ndarray) -> Groups:
    """Groups equal `keys` and leaves out those that occur once."""
    order = np.argsort(keys)  # not stable, which is slower: equal keys get the same number in any order
    ordered = keys[order]
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    begin = np.flatnonzero(first)
    counts = np.diff(np.append(begin, len(ordered)))
    many = counts > 1
    number = np.cumsum(many) - 1
    mine = np.repeat(np.where(many, number, -1), counts)
    groups = np.empty(len(keys), np.int64)
    groups[order] = mine
    keep = groups >= 0
    return Groups(width, starts[keep], groups[keep], counts[many])


def _single(words: Words) -> Groups:
    text = np.repeat(np.arange(len(words.texts) - 1, dtype=np.int64), np.diff(words.offsets))
    return _grouped(1, np.arange(len(words.ids)), text << 32 | words.ids)


def _wider(groups: Groups) -> Groups:
    """Goes from n-grams to (n + 1)-grams: two that begin at neighbouring words of one text."""
    starts, ids = groups.starts, groups.groups
    pairs = np.flatnonzero(starts[1:] == starts[:-1] + 1)
    keys = ids[pairs] << 32 | ids[pairs + 1]
    return _grouped(groups.width + 1, starts[pairs], keys)


def _first_grams(words: Words, total: np.ndarray, width: int) -> np.ndarray:
    """Returns the characters of each text's first n-gram, joined by spaces; 0 for texts of fewer words."""
    begin, enough = words.offsets[:-1], np.diff(words.offsets) >= width
    stop = np.where(enough, begin + width, begin)
    return np.where(enough, total[stop] - total[begin] + width - 1, 0)


def _top(words: Words, total: np.ndarray, groups: Groups) -> np.ndarray:
    """Returns count times length of each text's most frequent n-gram (the first of equals), in characters."""
    out = _first_grams(words, total, groups.width)
    if not len(groups.starts):
        return out
    text = np.searchsorted(words.offsets, groups.starts, side="right") - 1
    count = groups.counts[groups.groups]
    begin = np.flatnonzero(np.diff(text, prepend=-1))  # `starts` ascend, and so does `text`
    owner = text[begin]
    best = np.zeros(len(out), np.int64)
    best[owner] = np.maximum.reduceat(count, begin)
    winners = np.flatnonzero(count == best[text])
    start = groups.starts[winners[np.searchsorted(text[winners], owner)]]
    out[owner] = best[owner] * (total[start + groups.width] - total[start] + groups.width - 1)
    return out


def _repeated(words: Words, total: np.ndarray, groups: Groups) -> np.ndarray:
    """Returns the characters of n-grams that occurred before in their text, read greedily from left to right."""
    out = np.zeros(len(words.texts) - 1, np.int64)
    size = (total[groups.starts + groups.width] - total[groups.starts]).tolist()
    text = (np.searchsorted(words.offsets, groups.starts, side="right") - 1).tolist()
    seen, after, width = set(), 0, groups.width
    for start, group, chars, owner in zip(groups.starts.tolist(), groups.groups.tolist(), size, text):
        if start < after:
            continue
        if group in seen:
            out[owner] += chars
            after = start + width
        else:
            seen.add(group)
    return out


TOP, REPEATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)  # the published widths
NAMES = {**{f"top_{n}_gram": n for n in TOP}, **{f"repeated_{n}_gram": n for n in REPEATED}}


def ngram_shares(words: Words, names: Sequence[str], stretch: float = 1.0) -> dict[str, np.ndarray]:
    """Counts the characters in n-grams of several widths at once.

    Args:
        words: of n texts.
        names: `top_{n}_gram`: in the most frequent n-gram; `repeated_{n}_gram`: in all that occurred before.
        stretch: an n-gram has `n * stretch` words, rounded (where words are single characters).

    Returns:
        Characters by name, `[n] int64` each.
    """
    total = np.concatenate([[0], np.cumsum(words.lengths[words.ids], dtype=np.int64)])
    wanted = {name: max(round(NAMES[name] * stretch), NAMES[name]) for name in names}
    out = {}
    groups = _single(words)
    for width in range(2, max(wanted.values(), default=0) + 1):
        groups = _wider(groups)
        for name in (name for name, mine in wanted.items() if mine == width):
            out[name] = (_top if name.startswith("top") else _repeated)(words, total, groups)
    return out
