"""Successive halving (Jamieson & Talwalkar, arXiv:1502.07943): many points on few tokens, the best of them on more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Rung:
    """Up to `tokens` of its own plan each point trains that is still in; then the best `keep` go on."""

    tokens: int
    keep: int


def rungs(points: int, tokens: int, factor: int | None, least: int | None = None) -> list[Rung]:
    """Returns the rungs of a sweep, the last one with the whole budget.

    Args:
        points: how many begin.
        tokens: the budget of a point that gets to the end.
        factor: of so many points one goes on, with so many times the tokens; None: all go to the end at once.
        least: tokens of the first rung at least; None: as few as let one point be left at the end.

    Raises:
        JaxptError: a factor below 2, a first rung that is longer than the budget.
    """
    if factor is None:
        return [Rung(tokens, points)]
    if factor < 2:
        raise JaxptError(f"--halving={factor}: of so many points one goes on; it must be at least 2")
    if least is not None and not 0 < least <= tokens:
        raise JaxptError(f"--first_rung={least:,}: it must be above 0 and at most the budget, {tokens:,} tokens")
    count = 0
    while points // factor**count >= factor and (least is None or tokens // factor ** (count + 1) >= least):
        count += 1
    keeps = [max(1, math.ceil(points / factor ** (i + 1))) for i in range(count)]
    parts = [tokens // factor ** (count - i) for i in range(count)]
    return [Rung(part, keep) for part, keep in zip([*parts, tokens], [*keeps, keeps[-1] if keeps else points])]


def survivors(losses: Mapping[str, float], keep: int, order: Sequence[str]) -> list[str]:
    """Returns the `keep` names of lowest loss, in `order`; of equal losses the earlier one; none that is infinite."""
    finite = [name for name in order if math.isfinite(losses.get(name, math.inf))]
    best = set(sorted(finite, key=lambda name: (losses[name], order.index(name)))[:keep])
    return [name for name in order if name in best]
