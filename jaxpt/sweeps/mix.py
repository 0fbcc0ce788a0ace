"""Shares of a mixture, tried and compared on held-out text: of all its entries, or inside one group."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxpt.errors import JaxptError, nearest
from jaxpt.sweeps.points import SweepPoint
from jaxpt.sweeps.probe import alone_with, stage_at, without_sizes
from jaxpt.training.config import RunConfig

DIGITS = 4  # of a share


def simplex_grid(count: int, parts: int, least: float = 0.0) -> list[tuple[float, ...]]:
    """Returns all shares of `count` entries in multiples of 1/parts that are at least `least`; each sums to 1.

    Raises:
        JaxptError: there is none.
    """
    cuts = itertools.product(range(parts + 1), repeat=count - 1)
    whole = [(*cut, parts - sum(cut)) for cut in cuts if sum(cut) <= parts]
    out = [tuple(n / parts for n in cut) for cut in whole if min(cut) / parts >= least]
    if not out:
        raise JaxptError(f"--least={least:g}: no shares of {count} entries in steps of 1/{parts} are all that large")
    return out


def drawn(count: int, number: int, seed: int, least: float = 0.0) -> list[tuple[float, ...]]:
    """Returns `number` shares drawn evenly from all that are at least `least` (Dirichlet with all parameters 1).

    The i-th depends on `seed` and i alone.
    """
    if count * least >= 1:
        raise JaxptError(f"--least={least:g}: {count} shares cannot all be that large")
    out = []
    for i in range(number):
        free = np.random.default_rng((seed, i)).dirichlet(np.ones(count))
        rounded = np.round(least + (1 - count * least) * free, DIGITS)
        rounded[-1] = round(1 - float(rounded[:-1].sum()), DIGITS)
        out.append(tuple(float(share) for share in rounded))
    return out


def entries(config: RunConfig, place: int, group: str | None) -> list[str]:
    """Returns the names whose shares are tried: those of a stage's mixture, or of one group in it.

    Raises:
        JaxptError: no such group, fewer than two names, a weight by size.
    """
    where, mixture = f"config.stages[{place}].mixture", stage_at(config, place).mixture
    if group is not None:
        value = mixture.get(group)
        groups = [name for name, entry in mixture.items() if isinstance(entry, Mapping)]
        if not isinstance(value, Mapping):
            have = f"; its groups are {', '.join(groups)}" if groups else "; it has no groups"
            raise JaxptError(f"--group={group}: {where} has no such group{nearest(group, groups)}{have}")
        where, mixture = f"{where}.{group}.sources", value["sources"]
    without_sizes(mixture, where)
    if len(mixture) < 2:
        raise JaxptError(f"{where} has one entry; shares are between two or more")
    return list(mixture)


def with_shares(config: RunConfig, place: int, group: str | None, given: Mapping[str, float]) -> RunConfig:
    """Returns `config` with these shares in the mixture of `stages[place]`, or inside its group."""
    stage = stage_at(config, place)
    if group is None:
        mixture = {
            name: {**entry, "weight": given[name]} if isinstance(entry, Mapping) else given[name]
            for name, entry in stage.mixture.items()
        }
    else:
        inside = {
            name: {**entry, "weight": given[name]} if isinstance(entry, Mapping) else given[name]
            for name, entry in stage.mixture[group]["sources"].items()
        }
        mixture = {**stage.mixture, group: {**stage.mixture[group], "sources": inside}}
    stages = list(config.stages)
    stages[place] = dataclasses.replace(stage, mixture=mixture)
    return dataclasses.replace(config, stages=tuple(stages))


def mix_points(
    config: RunConfig, place: int, group: str | None, chosen: Sequence[Sequence[float]], tokens: int | None
) -> list[SweepPoint]:
    """Returns a run of the one stage `place` for each of the chosen shares."""
    names, points = entries(config, place, group), []
    for given in chosen:
        values = dict(zip(names, given))
        mixed = with_shares(config, place, group, values)
        points.append(SweepPoint(values, alone_with(mixed, mixed.stages[place], tokens)))
    return points
