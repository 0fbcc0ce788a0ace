"""Look at every candidate next to a kept text before it is dropped: evidence, and a dial from certain to harsh.

A shared band only says "look here". Chains of candidates join texts that have nothing in common, and texts made from
one template agree in most shingles while each says something new. So a text is dropped only when a text that stays,
its anchor, was compared with it token by token; what was seen is returned for every drop.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np

from data_tools.dedup import bands
from data_tools.dedup import shingles as sh
from jaxpt.errors import JaxptError, nearest

COVER_WIDTH = 3  # a token is covered when some 3-gram around it occurs in the anchor …
REPETITIVE_WIDTH = 8  # … or some 8-gram, where the text repeats itself and 3-grams prove little
REPETITIVE = 0.9  # share of distinct 3-grams below which a text counts as repetitive


@dataclass(frozen=True)
class Strictness:
    """When evidence suffices to drop: (Jaccard or coverage) high enough, and no long run of new tokens."""

    jaccard: float  # of the shingle sets, at least
    covered: float  # or this share of the text's tokens occurs, in context, in the anchor
    new_run: float  # longest run of tokens that the anchor does not have, at most; or this share of a long text:
    new_share: float
    crowd_run: float  # the same in clusters of `crowd` and more, which are templates until shown otherwise
    crowd: int = 16


LEVELS = {
    "certain": Strictness(jaccard=inf, covered=1.0, new_run=0, new_share=0, crowd_run=0),
    "strict": Strictness(jaccard=0.9, covered=0.98, new_run=4, new_share=0.001, crowd_run=1),
    "balanced": Strictness(jaccard=0.8, covered=0.95, new_run=16, new_share=0.01, crowd_run=2),
    "harsh": Strictness(jaccard=0.7, covered=0.8, new_run=inf, new_share=1, crowd_run=inf),
}


def level(name: str) -> Strictness:
    """Returns the strictness of that name: certain, strict, balanced, or harsh ("when in doubt, drop").

    Raises:
        JaxptError: an unknown name.
    """
    if name not in LEVELS:
        raise JaxptError(f"strictness {name!r} is unknown{nearest(name, LEVELS)}; known: {', '.join(LEVELS)}")
    return LEVELS[name]


@dataclass(frozen=True)
class Evidence:
    """What a comparison of a text with an anchor showed."""

    jaccard: float
    covered: float  # share of the text's tokens
    new_run: int  # tokens
    tokens: int  # of the text

    def suffices(self, strictness: Strictness, cluster_size: int) -> bool:
        """Whether a text of a cluster of this size may be dropped on this evidence."""
        run = max(strictness.new_run, strictness.new_share * self.tokens)
        if cluster_size >= strictness.crowd:
            run = strictness.crowd_run
        return (self.jaccard >= strictness.jaccard or self.covered >= strictness.covered) and self.new_run <= run


class Profile:
    """One text prepared for comparison; the n-gram sets are built when first asked for."""

    def __init__(self, tokens: np.ndarray):
        """Takes the token hashes `[T] uint64` of a text."""
        self.tokens = tokens

    def grams(self, width: int) -> np.ndarray:
        """Returns the hashes of the n-grams in order, uint64, as `shingles.ngrams` does."""
        return sh.ngrams_of_one(self.tokens, width)

    @cached_property
    def shingles(self) -> np.ndarray:
        """Sorted distinct shingles."""
        return np.unique(self.grams(sh.WIDTH))

    @cached_property
    def cover(self) -> np.ndarray:
        """Sorted distinct 3-grams."""
        return np.unique(self.grams(COVER_WIDTH))

    @cached_property
    def cover_repetitive(self) -> np.ndarray:
        """Sorted distinct 8-grams."""
        return np.unique(self.grams(REPETITIVE_WIDTH))

    @property
    def repetitive(self) -> bool:
        """Whether fewer than 90 % of the 3-grams are distinct."""
        return len(self.cover) < REPETITIVE * max(len(self.tokens) - COVER_WIDTH + 1, 1)


def _occurs(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Returns `[n] bool`: which `values` are in the sorted, non-empty `among`."""
    return among[np.minimum(np.searchsorted(among, values), len(among) - 1)] == values


def longest_run(flags: np.ndarray) -> int:
    """Returns the length of the longest run of True in `flags [n] bool`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def compare(text: Profile, anchor: Profile) -> Evidence:
    """Returns the evidence that `text` says nothing that `anchor` does not say; both have tokens."""
    common = int(_occurs(text.shingles, anchor.shingles).sum())
    jaccard = common / (len(text.shingles) + len(anchor.shingles) - common)
    width, among = COVER_WIDTH, anchor.cover
    if text.repetitive:
        width, among = REPETITIVE_WIDTH, anchor.cover_repetitive
    if len(text.tokens) < width:
        width, among = len(text.tokens), np.unique(anchor.grams(len(text.tokens)))
    known = _occurs(text.grams(width), among)
    covered = np.zeros(len(text.tokens), dtype=bool)
    for shift in range(width):
        covered[shift : shift + len(known)] |= known
    return Evidence(jaccard, float(covered.mean()), longest_run(~covered), len(text.tokens))


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate: dropped because of a kept unit, or kept (then `anchor` is itself)."""

    unit: int
    anchor: int
    evidence: Evidence | None  # best evidence seen; None where nothing was compared


class _Recent:
    """Profiles of kept texts, made again when asked for after many others: `room` tokens of them are remembered."""

    def __init__(self, make: Callable[[int], Profile], room: int):
        self._make, self._room, self._held = make, room, 0
        self._profiles: OrderedDict[int, Profile] = OrderedDict()

    def __call__(self, i: int) -> Profile:
        if i in self._profiles:
            self._profiles.move_to_end(i)
            return self._profiles[i]
        profile = self._profiles[i] = self._make(i)
        self._held += len(profile.tokens)
        while self._held > self._room and len(self._profiles) > 1:
            self._held -= len(self._profiles.popitem(last=False)[1].tokens)
        return profile


class _Anchors:
    """Kept texts of one cluster by band key."""

    def __init__(self, signatures: np.ndarray, layout: bands.Bands, most: int):
        self._signatures, self._most = signatures, most
        self._keys = bands.keys(signatures, layout).T.tolist() if len(signatures) > most else None
        self._kept: list[int] = []
        self._by_key: dict[tuple[int, int], list[int]] = {}

    def add(self, i: int) -> None:
        """Makes the i-th text an anchor."""
        self._kept.append(i)
        for place in enumerate(self._keys[i]) if self._keys else ():
            self._by_key.setdefault(place, []).append(i)

    def most_like(self, i: int, count: int) -> list[int]:
        """Returns the anchors whose signatures look most like the i-th text's, among `most` that share rare bands."""
        near: dict[int, None] = {}
        if len(self._kept) > self._most:
            for bucket in sorted((self._by_key.get(k, []) for k in enumerate(self._keys[i])), key=len):
                near.update(dict.fromkeys(bucket[: self._most]))
                if len(near) >= self._most:
                    break
        for anchor in self._kept[: self._most]:
            if len(near) >= self._most:
                break
            near[anchor] = None
        chosen = np.fromiter(sorted(near), np.int64, len(near))
        likeness = (self._signatures[chosen] == self._signatures[i]).mean(axis=1)
        return chosen[np.argsort(-likeness, kind="stable")[:count]].tolist()


def judge(
    units: Sequence[int],
    signatures: np.ndarray,
    profile: Callable[[int], Profile],
    strictness: Strictness,
    layout: bands.Bands | None = None,
    most: int = 256,
    tries: int = 4,
    settled: int = 0,
    room: int = 4 << 20,
) -> Iterator[Verdict]:
    """Decides one cluster of candidates, in the order of preference given.

    The first unit stays. Each next one is compared with those kept units whose signatures look most like its own;
    it is dropped on sufficient evidence against one of them, and otherwise stays and becomes an anchor itself.

    Args:
        units: unit numbers, the preferred survivor first.
        signatures: `[n, K] uint32` in that order.
        profile: gives the `Profile` of the i-th unit.
        strictness: when evidence suffices.
        layout: bands of the signatures, `Bands()` by default; they find the anchors of a cluster of more than `most`.
        most: kept units whose signatures are looked at for each unit.
        tries: comparisons per unit, at most.
        settled: the first so many units were kept by an earlier run and stay whatever this one finds.
        room: tokens of kept units held ready, 32 bytes each.

    Yields:
        One verdict per unit, in order.
    """
    anchors, kept = _Anchors(signatures, layout or bands.Bands(), most), _Recent(profile, room)
    for i, unit in enumerate(units):
        best, anchor = None, unit
        mine = profile(i) if i >= settled else None
        for a in anchors.most_like(i, tries) if i >= settled else ():
            seen = compare(mine, kept(a))
            if best is None or seen.covered > best.covered:
                best = seen
            if seen.suffices(strictness, len(units)):
                best, anchor = seen, units[a]
                break
        if anchor == unit:
            anchors.add(i)
        yield Verdict(int(unit), int(anchor), best)
