"""The loop's view of the data: batches from a step on, realised shares, and what a checkpoint must remember."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.data import Loader, StageData, budget, resume
from jaxpt.data.ledger import Ledger
from jaxpt.data.order import order_key
from jaxpt.data.seen import seen_documents
from jaxpt.models.batch import Batch
from jaxpt.training.branching import apart_of
from jaxpt.training.cached_targets import check_same, targets_of
from jaxpt.training.run_plan import RunPlan

HostRows = Callable[[int], slice | None]  # batch size -> this host's rows, None: all of them


class Feed(Protocol):
    """A pure function from the step to its global batch, with its bookkeeping."""

    def iterate(self, start_step: int, rows: HostRows = lambda size: None) -> Iterator[tuple[int, Batch[np.ndarray]]]:
        """Yields `(step, batch)` from `start_step` to the run's end: those rows of a batch that `rows` says."""

    def metrics(self, step: int) -> dict[str, float]:
        """After `step` finished steps, per source: share wanted and realised since the weights last changed, share of
        real tokens among those, and rows ahead of what was wanted since the run began."""

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force for the batch at `step`."""

    def change(self, step: int, weights: Mapping[str, float]) -> None:
        """Lets other weights hold from the batch at `step` to the stage's end; `iterate` again from there."""

    def to_save(self, step: int) -> RunItem:
        """The schedule log and the ledger after `step` finished steps, JSON-ready."""


class PackedFeed:
    """The batches of a plan's packed sources."""

    def __init__(self, loader: Loader, facts: RunItem):
        """Reads from `loader`; `facts` are what else a checkpoint keeps of how the data was chosen."""
        self.loader, self._facts = loader, facts

    def iterate(self, start_step: int, rows: HostRows = lambda size: None) -> Iterator[tuple[int, Batch[np.ndarray]]]:
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

    def to_save(self, step: int) -> RunItem:
        """As `Feed.to_save`."""
        return {**self.loader.to_save(step), **self._facts}


def make_feed(
    plan: RunPlan,
    saved: RunItem | None,
    used: Sequence[dict[str, Any]] = (),
    log: Callable[[str], None] = lambda text: None,
) -> PackedFeed:
    """Builds the feed of a run.

    Args:
        plan: the run; stages that begin after the saved step, and changes to the one it is in, hold from there.
        saved: the `run` item of the restored checkpoint, None for a new run.
        used: ledger of the run that a new run starts from: neither its rows nor (unless `leave_out_seen` is off) the
            documents that they hold are taken again.
        log: receives a line for each source with rows left out, and the budget.

    Raises:
        JaxptError: a source that changed since the checkpoint or is missing, a change that would let rows come twice,
            or a source that has too few rows for what is planned.
    """
    config, names = plan.config, tuple(plan.sources)
    targets = targets_of(plan, saved["step"] if saved else 0)
    stages = [
        StageData(s.first, s.stop - s.first, s.config.batch_size, s.config.sequence_length, s.weights, s.config.pose, t)
        for s, t in zip(plan.stages, targets)
    ]
    fingerprints = {s.config.name: t.fingerprints for s, t in zip(plan.stages, targets) if t is not None}
    schedule_log, joined = None, []
    if saved:
        check_same(saved, fingerprints)
        fingerprints = {**saved.get("targets", {}), **fingerprints}
        resume.check_sources(saved, plan.sources, {n: s.path for n, s in config.sources.items()})
        schedule_log, used = resume.resumed_log(saved, stages, names), saved["prior_ledger"]
        joined = resume.joined(saved, names)
    prior, seeds = Ledger.from_json(used), {n: config.sources[n].order_seed for n in names}
    loader = Loader(
        plan.sources,
        stages,
        log=schedule_log,
        used=prior,
        order_seed=seeds,
        repeat={n: config.sources[n].repeat for n in names},
        when_exhausted={n: config.sources[n].when_exhausted for n in names},
        seen_documents=_seen(plan, prior, joined, bool(saved)) if config.leave_out_seen else None,
        apart=apart_of(plan.branch, names),
        other_orders=saved.get("other_orders", False) if saved else True,  # False: began before they were left out
        seed=config.seed,
    )
    if saved:
        assert schedule_log is not None
        consumed = schedule_log.anchors[schedule_log.at(saved["step"])].consumed
        resume.check_rows(saved, loader.orders, consumed, prior, config.leave_out_seen)
    for order in loader.orders:
        if order.left_out:
            rows = f"{order.left_out:,} of {order.source.rows:,} rows"
            log(f"source {order.name}: {rows} hold documents that were seen before and are left out")
    lines = budget.budget(loader.log, loader.orders, loader.limits, plan.steps)
    log(budget.show(lines))
    budget.check(lines)
    facts: RunItem = {"joined": joined, "order_seeds": seeds, "leave_out_seen": config.leave_out_seen}
    return PackedFeed(loader, {**facts, "targets": fingerprints} if fingerprints else facts)


class Feeds:
    """Makes a run's feed, as `make_feed`: also before anything is written, so that a refusal leaves all as it was."""

    def __init__(self, used: Sequence[dict[str, Any]] = (), log: Callable[[str], None] = lambda text: None):
        """`used` and `log` are those of `make_feed`."""
        self._used, self._log, self._lines = used, log, list[str]()
        self._early: tuple[RunItem | None, PackedFeed] | None = None

    def check(self, plan: RunPlan, saved: RunItem | None) -> None:
        """Makes the feed from the newest checkpoint and keeps it.

        Raises:
            JaxptError: as `make_feed`.
        """
        self._early = saved, make_feed(plan, saved, self._used, self._lines.append)

    def __call__(self, plan: RunPlan, saved: RunItem | None) -> PackedFeed:
        """Returns the feed that was kept, or makes another where another checkpoint was restored."""
        if self._early is None or self._early[0] != saved:
            return make_feed(plan, saved, self._used, self._log)
        for line in self._lines:
            self._log(line)
        return self._early[1]


def _seen(plan: RunPlan, prior: Ledger, joined: Sequence[Mapping[str, Any]], resumed: bool) -> dict[str, np.ndarray]:
    """Documents that each source leaves out: seen by earlier runs and, where it joined this one later, by this one."""
    keys = {n: order_key(source, plan.config.sources[n].order_seed) for n, source in plan.sources.items()}
    out = seen_documents(prior, plan.sources, keys, resumed=resumed)
    for entry in joined:
        then = seen_documents(Ledger.from_json(entry["ledger"]), plan.sources, keys, resumed=resumed)
        out |= {name: then[name] for name in entry["sources"] if name in then}
    return out
