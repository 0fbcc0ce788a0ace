"""Probing: the best learning rate of each kind of data alone, and the annealing stages in the order of those rates.

Mixing all good data at once makes abilities seesaw; stages that are each led by one kind, the kind of the highest rate
first, do not have to (`docs/sweeps.md`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpt.data.weights import SIZE
from jaxpt.errors import JaxptError
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.planning.sweep import best_of
from jaxpt.sweeps.points import SweepPoint, planned_tokens, with_tokens
from jaxpt.sweeps.results import PointResult
from jaxpt.training.config import RunConfig, StageConfig

KIND, RATE, BATCH = "kind", "learning_rate", "batch_size"
LEADS = (1.0, 0.6, 0.4)  # share of the leading kind in the first stages; after these all kinds so far have the same
WARMUP = "1%"


@dataclass(frozen=True)
class KindProbe:
    """What the probe of one kind of data came to.

    `rate` is from a parabola through the losses of three rates around the least; `at_edge`: the least was that of the
    lowest or highest rate tried, and the best may lie beyond.
    """

    kind: str
    rate: float
    batch_size: int
    loss: float
    at_edge: bool


def kinds_of(stage: StageConfig, where: str) -> dict[str, object]:
    """Returns the kinds of data of a stage's mixture, each as an entry that stands alone: a source, or a group.

    Raises:
        JaxptError: fewer than two.
    """
    kinds = {name: _alone(value) for name, value in stage.mixture.items() if _weight(value) != 0}
    if len(kinds) < 2:
        raise JaxptError(
            f"{where}.mixture has {len(kinds)} kind of data; a kind is a source or a group, give two or more"
        )
    return kinds


def probe_points(
    config: RunConfig, place: int, rates: Sequence[float], batch_sizes: Sequence[int], tokens: int | None
) -> list[SweepPoint]:
    """Returns a run of one stage for each kind of data of `stages[place]`, each rate and each batch size.

    Args:
        config: its stage `place` is the pattern: batch, length, schedule.
        place: of the stage.
        rates: peak learning rates, three or more.
        batch_sizes: none: the stage's.
        tokens: of each run; None: those of the stage.

    Raises:
        JaxptError: too few rates, no such stage, too few kinds.
    """
    if len(set(rates)) < 3 or min(rates) <= 0:
        raise JaxptError(
            "--rates: give three learning rates or more, above 0, so that a best one can lie between others"
        )
    stage = stage_at(config, place)
    points = []
    for kind, entry in kinds_of(stage, f"config.stages[{place}]").items():
        for batch in batch_sizes or [stage.batch_size]:
            for rate in sorted(rates):
                values = {KIND: kind, RATE: rate} | ({BATCH: batch} if batch_sizes else {})
                alone = dataclasses.replace(
                    stage, name="probe", mixture={kind: entry}, learning_rate=rate, batch_size=batch
                )
                points.append(SweepPoint(values, alone_with(config, alone, tokens)))
    return points


def stage_at(config: RunConfig, place: int) -> StageConfig:
    """Returns a stage by its number.

    Raises:
        JaxptError: there is none.
    """
    if not 0 <= place < len(config.stages):
        raise JaxptError(f"--stage={place}: the config has stages[0] to stages[{len(config.stages) - 1}]")
    return config.stages[place]


def alone_with(config: RunConfig, stage: StageConfig, tokens: int | None) -> RunConfig:
    """Returns `config` with this one stage, on `tokens` (None: as the stage says)."""
    config = dataclasses.replace(config, stages=(stage,))
    return config if tokens is None else with_tokens(config, tokens)


def best_rates(results: Sequence[PointResult], default_batch: int) -> list[KindProbe]:
    """Returns the best rate of each kind, highest first; of several batch sizes that of the least loss.

    Raises:
        JaxptError: a kind of which no run finished with a finite loss.
    """
    groups: dict[str, dict[int, dict[float, float]]] = {}
    for r in sorted(results, key=lambda r: r.point):
        batch = int(str(r.values.get(BATCH, default_batch)))
        groups.setdefault(str(r.values[KIND]), {}).setdefault(batch, {})[float(str(r.values[RATE]))] = r.score
    out = []
    for kind, batches in groups.items():
        tried = []
        for batch, losses in batches.items():
            rates = sorted(losses)
            if not any(math.isfinite(loss) for loss in losses.values()):
                continue
            best = best_of(np.log2(rates), np.array([losses[rate] for rate in rates]))
            tried.append(KindProbe(kind, float(f"{2**best.log2:.4g}"), batch, best.loss, best.at_edge))
        if not tried:
            raise JaxptError(f"of {kind} alone no rate gave a finite loss; see the points' logs, or give lower --rates")
        out.append(min(tried, key=lambda probe: probe.loss))
    return sorted(out, key=lambda probe: -probe.rate)


def shares(order: Sequence[str], leads: Sequence[float]) -> list[dict[str, float]]:
    """Returns each stage's shares: its leader has its lead, the kinds before share the rest as they did before.

    `leads` beyond those given are 1/2, 1/3, 1/4, … of the stage's number of kinds: all have the same.
    """
    out: list[dict[str, float]] = []
    for number, kind in enumerate(order):
        lead = leads[number] if number < len(leads) else 1 / (number + 1)
        before = out[-1] if out else {}
        if not out:
            out.append({kind: 1.0})
        elif number < len(leads):
            out.append({**{name: round((1 - lead) * share, 6) for name, share in before.items()}, kind: lead})
        else:
            out.append({name: round(lead, 6) for name in [*before, kind]})
    return out


def staged(
    config: RunConfig, place: int, probes: Sequence[KindProbe], tokens: int | None, leads: Sequence[float],
    parts: Sequence[float],
) -> RunConfig:  # fmt: skip
    """Returns the plan: a stage for each kind, in the order of `probes`, each from its own rate to the next one's.

    Args:
        config: everything but the stages.
        place: of the stage that is the pattern.
        probes: highest rate first.
        tokens: of the whole plan; None: as many as the config's stages have.
        leads: shares of the leaders, see `shares`.
        parts: each stage's part of the tokens; none: all the same.
    """
    stage, kinds = stage_at(config, place), kinds_of(stage_at(config, place), f"config.stages[{place}]")
    if parts and (len(parts) != len(probes) or min(parts) <= 0):
        raise JaxptError(f"--plan_parts: give {len(probes)} numbers above 0, one for each stage")
    total, weights = tokens or planned_tokens(config), list(parts) or [1.0] * len(probes)
    ends = [*(probe.rate for probe in probes[1:]), 0.0]
    stages: list[StageConfig] = []
    for probe, end, mixture, part in zip(probes, ends, shares([p.kind for p in probes], leads), weights):
        stages.append(
            dataclasses.replace(
                stage,
                name=probe.kind,
                duration=f"{int(total * part / sum(weights))} tokens",
                batch_size=probe.batch_size,
                learning_rate=probe.rate,
                mixture={name: _weighted(kinds[name], share) for name, share in mixture.items()},
                schedule=Cosine(warmup=WARMUP, end=end / probe.rate),
                load="params+optimizer" if stages else stage.load,
            )
        )
    return dataclasses.replace(config, stages=tuple(stages))


def table_rows(probes: Sequence[KindProbe]) -> tuple[list[str], list[list[object]]]:
    """Returns head and rows: a line per kind, in the order of the stages."""
    head = ["kind", "best learning rate", "batch size", "loss there", ""]
    beyond = "the lowest or highest rate tried: the best may lie beyond"
    return head, [[p.kind, f"{p.rate:.3g}", p.batch_size, p.loss, beyond if p.at_edge else ""] for p in probes]


def _weight(entry: object) -> object:
    return entry["weight"] if isinstance(entry, Mapping) else entry


def _alone(value: object) -> object:
    return {**value, "weight": 1.0} if isinstance(value, Mapping) else 1.0


def _weighted(entry: object, share: float) -> object:
    return {**entry, "weight": share} if isinstance(entry, Mapping) else share


def without_sizes(mixture: Mapping[str, object], where: str) -> None:
    """Raises a JaxptError where a mixture has weights by size, which shares would replace."""
    if sized := [name for name, value in mixture.items() if value == SIZE]:
        raise JaxptError(f'{where}.{sized[0]} is "size"; give a number, which the shares replace')
