"""The loop's view of the data: batches from a step on, realised shares, and what a checkpoint must remember."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from jaxpt.data import Loader, StageData, budget
from jaxpt.data.ledger import Ledger
from jaxpt.data.log import ScheduleLog
from jaxpt.data.mixture import Mixture, plan_log
from jaxpt.data.order import order_key
from jaxpt.data.seen import seen_documents
from jaxpt.errors import JaxptError
from jaxpt.training.plan import Plan

Rows = Callable[[int], slice | None]  # batch size -> this host's rows, None: all of them


class Feed(Protocol):
    """A pure function from the step to its global batch, with its bookkeeping."""

    def iterate(self, start_step: int, rows: Rows = lambda size: None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields `(step, batch)` from `start_step` to the run's end: those rows of a batch that `rows` says."""

    def metrics(self, step: int) -> dict[str, float]:
        """After `step` finished steps, per source: share wanted and realised since the weights last changed, share of
        real tokens among those, and rows ahead of what was wanted since the run began."""

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force for the batch at `step`."""

    def change(self, step: int, weights: Mapping[str, float]) -> None:
        """Lets other weights hold from the batch at `step` to the stage's end; `iterate` anew from there."""

    def to_save(self, step: int) -> dict[str, Any]:
        """The schedule log and the ledger after `step` finished steps, JSON-ready."""


class PackedFeed:
    """The batches of a plan's packed sources."""

    def __init__(self, loader: Loader):
        """Reads from `loader`."""
        self.loader = loader

    def iterate(self, start_step: int, rows: Rows = lambda size: None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """As `Feed.iterate`."""
        return self.loader.iterate(start_step, rows)

    def metrics(self, step: int) -> dict[str, float]:
        """As `Feed.metrics`."""
        wanted, share = self.loader.shares(step)
        tokens = {n: share[n] * s.tokens / s.rows for n, s in self.loader.sources.items()}
        total = sum(tokens.values()) or 1.0
        out = {f"data/wanted/{n}": v for n, v in wanted.items()} | {f"data/share/{n}": v for n, v in share.items()}
        out |= {f"data/tokens/{n}": v / total for n, v in tokens.items()}
        return out | {f"data/deviation/{n}": v for n, v in self.loader.deviation(step).items()}

    def weights(self, step: int) -> dict[str, float]:
        """As `Feed.weights`."""
        return self.loader.weights(step)

    def change(self, step: int, weights: Mapping[str, float]) -> None:
        """As `Feed.change`."""
        self.loader.change(step, weights)

    def to_save(self, step: int) -> dict[str, Any]:
        """As `Feed.to_save`."""
        return self.loader.to_save(step)


def make_feed(
    plan: Plan,
    saved: dict[str, Any] | None,
    used: Sequence[dict[str, Any]] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> PackedFeed:
    """Builds the feed of a run.

    Args:
        plan: the run; stages that begin after the saved step, and changes to the one it stands in, hold from there.
        saved: the `run` item of the restored checkpoint, None for a new run.
        used: ledger of the run that a new run starts from: neither its rows nor (unless `leave_out_seen` is off) the
            documents that they hold are taken again.
        tell: receives a line for each source with rows left out, and the budget.

    Raises:
        JaxptError: a source that changed since the checkpoint, or that has too few rows for what is planned.
    """
    stages = [
        StageData(s.first, s.stop - s.first, s.config.batch_size, s.config.sequence_length, s.weights, s.config.pose)
        for s in plan.stages
    ]
    log = None
    if saved:
        _check_fingerprints(plan, saved)
        log, used = _resumed_log(saved, stages), saved["prior_ledger"]
    sources = plan.config.sources
    prior = Ledger.from_json(used)
    keys = {name: order_key(plan.sources[name], s.order_seed) for name, s in sources.items()}
    loader = Loader(
        plan.sources,
        stages,
        log=log,
        used=prior,
        order_seed={name: s.order_seed for name, s in sources.items()},
        repeat={name: s.repeat for name, s in sources.items()},
        when_exhausted={name: s.when_exhausted for name, s in sources.items()},
        seen_documents=seen_documents(prior, plan.sources, keys) if plan.config.leave_out_seen else None,
        seed=plan.config.seed,
    )
    for order in loader.orders:
        if order.left_out:
            rows = f"{order.left_out:,} of {order.source.rows:,} rows"
            tell(f"source {order.name}: {rows} hold documents that were seen before and are left out")
    lines = budget.budget(loader.log, loader.orders, loader.limits, plan.steps)
    tell(budget.show(lines))
    budget.check(lines)
    return PackedFeed(loader)


def _resumed_log(saved: dict[str, Any], stages: Sequence[StageData]) -> ScheduleLog:
    """What was logged up to the saved step, and from there on what the plan says now."""
    step = saved["step"]
    before = ScheduleLog.from_json(saved["schedule_log"])
    entries = plan_log(before.names, stages).entries
    log = ScheduleLog(before.names, [a for a in before.anchors if a.step <= step], entries)
    was, now = before.planned(step), log.planned(step)
    if replace(was, step=0) != replace(now, step=0):
        weights = dict(zip(log.names, now.weights))
        Mixture(log).change(step, weights, now.batch_size, now.sequence_length)
    return log


def _check_fingerprints(plan: Plan, saved: dict[str, Any]) -> None:
    for name, source in plan.sources.items():
        before = saved["fingerprints"].get(name, source.fingerprint)
        if before != source.fingerprint:
            raise JaxptError(
                f"config.sources.{name}: {plan.config.sources[name].path} is not the source this run began with "
                f"(content {source.fingerprint[:12]}, was {before[:12]}); restore it or begin in another --workdir"
            )
