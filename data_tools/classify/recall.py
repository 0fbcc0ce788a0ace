"""Mine text like a seed out of a large pool, in rounds: train, rank, take the best, learn from whole domains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import numpy as np
import xxhash

from data_tools.classify.judge import Judgement, held_out, judge
from data_tools.classify.model import Classifier
from data_tools.classify.recipes import Recipe
from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError

BATCH = 512


@dataclass(frozen=True)
class PoolText:
    """One text of the pool."""

    id: str
    text: str
    url: str = ""

    @property
    def domain(self) -> str:
        """Host name of the url without "www.", or an empty string."""
        host = urlsplit(self.url if "//" in self.url else f"//{self.url}").hostname or ""
        return host.removeprefix("www.")


@dataclass(frozen=True)
class MiningBudget:
    """How far mining goes."""

    top_tokens: int  # texts are taken from the best score down until this many tokens
    rounds: int = 4
    domain_rate: float = 0.1  # a domain is on topic when more than this share of its pages was recalled …
    domain_pages: int = 5  # … and it has at least this many pages
    negatives: float = 1.0  # random texts of the pool per positive
    domain_quantile: float = (
        0.5  # of an on-topic domain's pages, those above this quantile of the pool become positives
    )


@dataclass(frozen=True)
class Round:
    """What one round did."""

    number: int
    positives: int
    negatives: int
    threshold: float
    documents: int
    tokens: int
    new_tokens: int  # tokens that the round before did not have
    precision: float  # on held-out seed texts against held-out random texts of the pool, which may be on topic too
    recall: float
    calibration_error: float
    domains: tuple[tuple[str, int, int], ...]  # on-topic domains: name, pages recalled, pages in the pool


def _chance(id: str, seed: int) -> float:
    """A number in [0, 1) fixed by the document's id, for sampling that no order or worker changes."""
    return xxhash.xxh3_64_intdigest(id.encode(), seed=seed) / 2.0**64


def _batches(documents: Iterable[PoolText]) -> Iterator[list[PoolText]]:
    batch: list[PoolText] = []
    for document in documents:
        batch.append(document)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass
class _Pool:
    """One pass over the pool: columns per document, 40 bytes and the id and domain names each."""

    ids: list[str]
    domains: np.ndarray
    names: list[str]
    tokens: np.ndarray
    scores: np.ndarray  # log-odds: probabilities near 1 are all the same number
    tie: np.ndarray  # order of equal scores, fixed by the ids


@dataclass(frozen=True)
class Mined:
    """What mining found."""

    scores: dict[str, float]  # by id of the recalled documents
    rounds: list[Round]
    classifier: Classifier  # of the last round
    judgement: Judgement  # of it


def _score(classifier: Classifier, documents: Iterable[PoolText], count: Callable[[str], int]) -> _Pool:
    ids, domains, tokens, scores, names = [], [], [], [], {}
    for batch in _batches(documents):
        ids += [d.id for d in batch]
        domains += [names.setdefault(d.domain, len(names)) for d in batch]
        tokens += [count(d.text) for d in batch]
        scores.append(classifier.margins([d.text for d in batch]))
    if not ids:
        raise JaxptError("recall: the pool holds no documents")
    tie = np.array([_chance(id, 0) for id in ids])
    return _Pool(ids, np.array(domains), list(names), np.array(tokens), np.concatenate(scores), tie)


def _on_topic(pool: _Pool, taken: np.ndarray, budget: MiningBudget) -> list[tuple[str, int, int]]:
    pages = np.bincount(pool.domains, minlength=len(pool.names))
    recalled = np.bincount(pool.domains[taken], minlength=len(pool.names))
    good = (pages >= budget.domain_pages) & (recalled > budget.domain_rate * pages)
    rows = [(pool.names[i], int(recalled[i]), int(pages[i])) for i in np.flatnonzero(good) if pool.names[i]]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _examples(
    seed: Sequence[str],
    documents: Iterable[PoolText],
    recipe: Recipe,
    learned: set[str],
    barred: set[str],
    chance: Callable[[str], bool],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Returns `(text, label)` to train on and to judge by: the seed and what was learned, against random others.

    Held out by content are texts of the seed, and random texts for the other label; what was learned is never judged
    by, its label being the classifier's own.
    """
    train: list[tuple[str, str]] = []
    test: list[tuple[str, str]] = []

    def add(text: str, label: str) -> None:
        (test if held_out(text, recipe.held_out, recipe.seed) else train).append((text, label))

    for text in seed:
        add(text, recipe.positive)
    for document in documents:
        if document.id in learned:
            train.append((document.text, recipe.positive))
        elif document.id not in barred and chance(document.id):
            add(document.text, "other")
    return train, test


def recall(
    seed: Sequence[str],
    pool: Callable[[], Iterable[PoolText]],
    recipe: Recipe,
    budget: MiningBudget,
    count: Callable[[str], int] = lambda text: max(len(text) // 4, 1),
) -> Mined:
    """Mines `pool` for texts like `seed` (the loop of DeepSeekMath, section 2.1).

    Args:
        seed: texts that are what is wanted.
        pool: gives all documents at each call, in any order, ids distinct.
        recipe: how the classifier is trained; its positive label names the topic.
        budget: tokens, rounds and the rule for domains.
        count: tokens of a text; characters / 4 by default.

    Raises:
        JaxptError: an empty seed or pool, nothing held out to judge by, or no rounds or tokens.
    """
    if not seed or budget.rounds < 1 or budget.top_tokens < 1:
        raise JaxptError(
            f"recall: {len(seed)} seed texts, rounds={budget.rounds}, top_tokens={budget.top_tokens}: all must be > 0"
        )
    recipe = replace(recipe, positive=recipe.positive or "wanted")
    learned: set[str] = set()  # ids added to the positives
    taken_before: set[str] = set()
    sizes = [count(document.text) for document in pool()]
    size = len(sizes)
    if budget.rounds > 1 and sum(sizes) <= budget.top_tokens:
        raise JaxptError(
            f"recall: a budget of {budget.top_tokens:,} tokens takes the whole pool, {size:,} documents of "
            f"{sum(sizes):,} tokens, so that the second round has nothing to tell the seed from; lower --top_tokens"
        )
    reports = []
    with progress(2 * size * budget.rounds, "mine", "text", scale=True) as bar:

        def documents() -> Iterator[PoolText]:
            for document in pool():
                yield document
                bar.update()

        for number in range(1, budget.rounds + 1):
            share = min(1.0, budget.negatives * (len(seed) + len(learned)) / max(size - len(taken_before), 1))
            chosen_by = lambda id, n=number, s=share: _chance(id, recipe.seed + n) < s  # noqa: E731
            train, test = _examples(seed, documents(), recipe, learned, taken_before, chosen_by)
            classifier = Classifier.train(train, recipe)
            seen = judge(classifier.probabilities([t for t, _ in test]), [l for _, l in test], classifier.labels)
            scored = _score(classifier, documents(), count)
            taken, domains = _take(scored, budget)
            learned |= _learn(scored, domains, budget)
            reports.append(_report(number, train, seen, recipe, scored, taken, domains, taken_before))
            taken_before = {scored.ids[i] for i in taken}
    return Mined({scored.ids[i]: _probability(scored.scores[i]) for i in taken}, reports, classifier, seen)


def _probability(margin: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -margin)))


def _take(scored: _Pool, budget: MiningBudget) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Returns the documents from the best score down to the budget, and the domains that are on topic."""
    order = np.lexsort((scored.tie, -scored.scores))
    stop = int(np.searchsorted(np.cumsum(scored.tokens[order]), budget.top_tokens, "right"))
    taken = order[: max(stop, 1)]
    return taken, _on_topic(scored, taken, budget)


def _learn(scored: _Pool, domains: Sequence[tuple[str, int, int]], budget: MiningBudget) -> set[str]:
    """Returns the better documents of the domains that are on topic."""
    names = {name for name, _, _ in domains}
    cut = np.quantile(scored.scores, budget.domain_quantile)
    topical = np.isin(scored.domains, [i for i, name in enumerate(scored.names) if name in names])
    return {scored.ids[i] for i in np.flatnonzero(topical & (scored.scores >= cut))}


def _report(
    number: int,
    train: Sequence[tuple[str, str]],
    judgement: Judgement,
    recipe: Recipe,
    scored: _Pool,
    taken: np.ndarray,
    domains: Sequence[tuple[str, int, int]],
    before: set[str],
) -> Round:
    positives = sum(label == recipe.positive for _, label in train)
    mine = next(s for s in judgement.labels if s.label == recipe.positive)
    new = sum(int(scored.tokens[i]) for i in taken if scored.ids[i] not in before)
    return Round(
        number,
        positives,
        len(train) - positives,
        _probability(scored.scores[taken[-1]]),
        len(taken),
        int(scored.tokens[taken].sum()),
        new,
        mine.precision,
        mine.recall,
        judgement.calibration.error,
        tuple(domains),
    )
