"""What a choice of long documents does to lengths and domains, and the weights that put the domains back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpt.errors import JaxptError

LONGER = (4096, 16_384, 65_536)


@dataclass(frozen=True)
class Distribution:
    """Tokens by domain and by length."""

    documents: int
    tokens: int
    domains: dict[str, float]  # share of tokens
    histogram: dict[int, int]  # tokens in documents of 2^k … 2^(k + 1) - 1 tokens
    longer: dict[int, float]  # share of tokens in documents of more than 4k, 16k, 64k tokens


def measure(domains: Sequence[str], tokens: Sequence[int], weights: Sequence[float] | None = None) -> Distribution:
    """Measures a corpus given as one domain and one length per document; `weights` repeat or thin documents."""
    tokens = np.asarray(tokens, dtype=np.int64)
    mass = tokens * (np.ones(len(tokens)) if weights is None else np.asarray(weights, dtype=np.float64))
    total = mass.sum()
    by_domain: dict[str, float] = {}
    for domain, part in zip(domains, mass):
        by_domain[domain] = by_domain.get(domain, 0.0) + float(part)
    shares = {d: m / total if total else 0.0 for d, m in sorted(by_domain.items())}
    bins = np.frexp(np.maximum(tokens, 1))[1] - 1
    histogram = {int(k): int(mass[bins == k].sum()) for k in np.unique(bins)}
    longer = {n: float(mass[tokens > n].sum() / total) if total else 0.0 for n in LONGER}
    return Distribution(len(tokens), int(total), shares, histogram, longer)


def divergence(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    """Returns the Jensen-Shannon divergence of two share tables in bits: 0 equal, 1 nothing in common."""
    out = 0.0
    for name in set(left) | set(right):
        p, q = left.get(name, 0.0), right.get(name, 0.0)
        middle = (p + q) / 2
        out += sum(x / 2 * np.log2(x / middle) for x in (p, q) if x > 0)
    return float(out)


def rebalance(
    before: Distribution, after: Distribution, most: float = 4.0
) -> tuple[dict[str, float], dict[str, float]]:
    """Finds weights per domain that bring the long documents back to the domains of the base mixture.

    Lengths are shifted within each domain, not by trading one domain for another (Fu et al. 2024). The weight is
    limited to `most` passes; what a scarce domain cannot give is shared among the others in proportion.

    Args:
        before: the base corpus.
        after: the chosen long documents.
        most: largest weight, in passes over a domain.

    Returns:
        `(weights by domain, shares that result)`; the largest weight is at most `most`, the least scarce domain has 1
        or more wherever the limit allows.

    Raises:
        JaxptError: nothing was chosen, or a limit below 1.
    """
    if most < 1 or not after.tokens:
        raise JaxptError(f"longdoc: rebalancing needs chosen tokens ({after.tokens}) and most >= 1 (got {most})")
    names = [d for d, share in after.domains.items() if share > 0]
    have = np.array([after.domains[d] for d in names])
    want = np.array([before.domains.get(d, 0.0) for d in names])
    if not want.any():
        raise JaxptError("longdoc: none of the chosen documents' domains occurs in the base corpus")
    want = want / want.sum()
    ratio = want / have
    weights = ratio / ratio[want > 0].min()  # every token of the least scarce domain once …
    weights = np.minimum(weights, most)  # … and no domain more often than allowed
    total = (weights * have).sum()
    shares = {d: float(w * h / total) for d, w, h in zip(names, weights, have)}
    return {d: float(w) for d, w in zip(names, weights)}, shares
