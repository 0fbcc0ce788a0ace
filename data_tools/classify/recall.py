"""Mine text like a seed out of a large pool, in rounds: train, rank, take the best, learn from whole domains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import numpy as np
import xxhash

from data_tools.classify.model import Classifier
from data_tools.classify.recipes import Recipe
from jaxpt.errors import JaxptError

BATCH = 512


@dataclass(frozen=True)
class Document:
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
class Plan:
    """How far to go."""

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
    domains: tuple[tuple[str, int, int], ...]  # on-topic domains: name, pages recalled, pages in the pool


def _chance(id: str, seed: int) -> float:
    """A number in [0, 1) fixed by the document's id, for sampling that no order or worker changes."""
    return xxhash.xxh3_64_intdigest(id.encode(), seed=seed) / 2.0**64


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
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
    scores: np.ndarray
    tie: np.ndarray  # order of equal scores, fixed by the ids


def _score(classifier: Classifier, pool: Callable[[], Iterable[Document]], count: Callable[[str], int]) -> _Pool:
    ids, domains, tokens, scores, names = [], [], [], [], {}
    for batch in _batches(pool()):
        ids += [d.id for d in batch]
        domains += [names.setdefault(d.domain, len(names)) for d in batch]
        tokens += [count(d.text) for d in batch]
        scores.append(classifier.scores([d.text for d in batch]))
    if not ids:
        raise JaxptError("recall: the pool holds no documents")
    tie = np.array([_chance(id, 0) for id in ids])
    return _Pool(ids, np.array(domains), list(names), np.array(tokens), np.concatenate(scores), tie)


def _on_topic(pool: _Pool, taken: np.ndarray, plan: Plan) -> list[tuple[str, int, int]]:
    pages = np.bincount(pool.domains, minlength=len(pool.names))
    recalled = np.bincount(pool.domains[taken], minlength=len(pool.names))
    good = (pages >= plan.domain_pages) & (recalled > plan.domain_rate * pages)
    rows = [(pool.names[i], int(recalled[i]), int(pages[i])) for i in np.flatnonzero(good) if pool.names[i]]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def recall(
    seed: Sequence[str],
    pool: Callable[[], Iterable[Document]],
    recipe: Recipe,
    plan: Plan,
    count: Callable[[str], int] = lambda text: max(len(text) // 4, 1),
) -> tuple[dict[str, float], list[Round], Classifier]:
    """Mines `pool` for texts like `seed` (the loop of DeepSeekMath, section 2.1).

    Args:
        seed: texts that are what is wanted.
        pool: gives the documents anew at each call, in any order, ids distinct.
        recipe: how the classifier is trained; its positive label names the topic.
        plan: budget, rounds and the rule for domains.
        count: tokens of a text; characters / 4 by default.

    Returns:
        `(scores by id of the recalled documents, one report per round, the last classifier)`.

    Raises:
        JaxptError: an empty seed or pool, or a plan without rounds or budget.
    """
    if not seed or plan.rounds < 1 or plan.top_tokens < 1:
        raise JaxptError(
            f"recall: {len(seed)} seed texts, rounds={plan.rounds}, top_tokens={plan.top_tokens}: all must be > 0"
        )
    recipe = replace(recipe, positive=recipe.positive or "wanted")
    learned: set[str] = set()  # ids added to the positives
    taken_before: set[str] = set()
    size = sum(1 for _ in pool())
    reports = []
    for number in range(1, plan.rounds + 1):
        share = min(1.0, plan.negatives * (len(seed) + len(learned)) / max(size - len(taken_before), 1))
        examples = [(text, recipe.positive) for text in seed]
        positives = len(examples)
        for document in pool():
            if document.id in learned:
                examples.append((document.text, recipe.positive))
                positives += 1
            elif document.id not in taken_before and _chance(document.id, recipe.seed + number) < share:
                examples.append((document.text, "other"))
        classifier = Classifier.train(examples, recipe)
        scored = _score(classifier, pool, count)
        order = np.lexsort((scored.tie, -scored.scores))
        stop = int(np.searchsorted(np.cumsum(scored.tokens[order]), plan.top_tokens, "right"))
        taken = order[: max(stop, 1)]
        domains = _on_topic(scored, taken, plan)
        names = {name for name, _, _ in domains}
        cut = np.quantile(scored.scores, plan.domain_quantile)
        chosen = {scored.ids[i] for i in taken}
        topical = np.isin(scored.domains, [i for i, name in enumerate(scored.names) if name in names])
        learned |= {scored.ids[i] for i in np.flatnonzero(topical & (scored.scores >= cut))}
        new = sum(int(scored.tokens[i]) for i in taken if scored.ids[i] not in taken_before)
        total = int(scored.tokens[taken].sum())
        last = float(scored.scores[taken[-1]])
        reports.append(
            Round(number, positives, len(examples) - positives, last, len(taken), total, new, tuple(domains))
        )
        taken_before = chosen
    return {scored.ids[i]: float(scored.scores[i]) for i in taken}, reports, classifier
