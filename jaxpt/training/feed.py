"""The loop's view of the data: batches from a step on, realised shares, and what a checkpoint must remember."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from jaxpt.data import Loader, StageData
from jaxpt.data.ledger import Ledger
from jaxpt.data.log import ScheduleLog
from jaxpt.data.mixture import Mixture
from jaxpt.data.order import order_key
from jaxpt.data.quota import ONE, integer_weights
from jaxpt.data.seen import seen_documents
from jaxpt.errors import JaxptError
from jaxpt.training.plan import Plan


class Feed(Protocol):
    """A pure function from the step to its global batch, with its bookkeeping."""

    def iterate(self, start_step: int, rows: slice | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields `(step, batch)` from `start_step` to the run's end, only `rows` of each batch where given."""

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Wanted and realised share of each source after `step` finished steps."""

    def to_save(self, step: int) -> dict[str, Any]:
        """The schedule log and the ledger after `step` finished steps, JSON-ready."""


class PackedFeed:
    """The batches of a plan's packed sources."""

    def __init__(self, loader: Loader):
        """Reads from `loader`."""
        self.loader = loader

    def iterate(self, start_step: int, rows: slice | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """As `Feed.iterate`."""
        return self.loader.iterate(start_step, rows)

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """As `Feed.shares`."""
        return self.loader.shares(step)

    def to_save(self, step: int) -> dict[str, Any]:
        """As `Feed.to_save`."""
        return self.loader.to_save(step)


def make_feed(
    plan: Plan,
    saved: dict[str, Any] | None,
    used: Sequence[dict[str, Any]] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> PackedFeed:
    """Builds the feed of a run.

    Args:
        plan: the run; stages that begin after the saved step, and changes to the one it stands in, hold from there.
        saved: the `run` item of the restored checkpoint, None for a new run.
        used: ledger of the run that a new run starts from: neither its rows nor (unless `leave_out_seen` is off) the
            documents that they hold are taken again.
        tell: receives a line for each source with rows left out.

    Raises:
        JaxptError: a source that changed since the checkpoint, or that has too few rows for what is planned.
    """
    stages = [
        StageData(
            s.first, s.stop - s.first, s.config.batch_size, s.config.sequence_length, s.config.mixture, s.config.pose
        )
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
        seen_documents=seen_documents(prior, plan.sources, keys) if plan.config.leave_out_seen else None,
        seed=plan.config.seed,
    )
    for order in loader.orders:
        if order.left_out:
            rows = f"{order.left_out:,} of {order.source.rows:,} rows"
            tell(f"source {order.name}: {rows} hold documents that were seen before and are left out")
    _check_budget(loader, plan)
    return PackedFeed(loader)


def _resumed_log(saved: dict[str, Any], stages: Sequence[StageData]) -> ScheduleLog:
    """What was logged up to the saved step, and from there on what the plan says now."""
    step = saved["step"]
    before = ScheduleLog.from_json(saved["schedule_log"])
    log = ScheduleLog(before.names, [a for a in before.anchors if a.step <= step])
    mixture = Mixture(log)
    for stage in stages:
        start = max(stage.first_step, step)
        if start >= stage.first_step + stage.steps:
            continue
        now = log.anchors[log.at(start)]
        whole = integer_weights({n: stage.weights.get(n, 0) for n in log.names})
        wanted = (tuple(whole[n] for n in log.names), stage.batch_size, stage.sequence_length)
        if wanted != (now.weights, now.batch_size, now.sequence_length):
            mixture.change(start, stage.weights, stage.batch_size, stage.sequence_length)
    return log


def _check_fingerprints(plan: Plan, saved: dict[str, Any]) -> None:
    for name, source in plan.sources.items():
        before = saved["fingerprints"].get(name, source.fingerprint)
        if before != source.fingerprint:
            raise JaxptError(
                f"config.sources.{name}: {plan.config.sources[name].path} is not the source this run began with "
                f"(content {source.fingerprint[:12]}, was {before[:12]}); restore it or begin in another --workdir"
            )


def _check_budget(loader: Loader, plan: Plan) -> None:
    """Compares the rows every source has with what the plan takes of it."""
    log = loader.log
    last = log.anchors[-1]
    rows = (plan.steps - last.step) * last.batch_size
    for name, order, weight, taken in zip(log.names, loader.orders, last.weights, last.consumed):
        needed = taken + math.floor(weight * rows / ONE)
        if needed > order.rows:
            epochs = plan.config.sources[name].repeat
            enough = math.ceil(epochs * needed / max(order.rows, 1))
            where = ", ".join(f"stages[{i}]" for i, s in enumerate(plan.stages) if s.config.mixture.get(name, 0) > 0)
            raise JaxptError(
                f"config.sources.{name} has {order.rows:,} rows for this run, the plan needs {needed:,}; set "
                f"sources.{name}.repeat={enough} or lower its weight in {where}"
            )
