"""The loader: global batches as a pure function of the step, on any number of hosts, read ahead through Grain."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import grain
import numpy as np

from jaxpt.data import records
from jaxpt.data.ledger import Ledger
from jaxpt.data.log import ScheduleLog
from jaxpt.data.mixture import Mixture, plan_log
from jaxpt.data.order import Apart, SourceOrder
from jaxpt.data.packed import PackedSource
from jaxpt.data.pose import Pose, skip
from jaxpt.data.quota import ONE
from jaxpt.data.remote import is_remote
from jaxpt.data.source_targets import SourceTargets
from jaxpt.data.weights import StageData
from jaxpt.errors import JaxptError

if TYPE_CHECKING:  # the models need JAX and Flax, which reading data does not
    from jaxpt.models.batch import Delivered, Rows

REMOTE_THREADS = 8  # batches read at once where the rows lie on an object store


@dataclass(frozen=True)
class _Planned:
    """The rows of one global batch; `first` is the number of its first row among all rows of the run."""

    source_id: np.ndarray
    row_id: np.ndarray
    first: int
    pose: Pose | None
    targets: SourceTargets | None


class DataItem(TypedDict):
    """What a checkpoint keeps of the data, JSON-ready."""

    schedule_log: dict[str, object]
    ledger: list[dict[str, object]]
    prior_ledger: list[dict[str, object]]
    other_orders: bool
    fingerprints: dict[str, str]


class Loader:
    """Batches of packed rows under an exact mixture; its whole state is the step and the schedule log."""

    def __init__(
        self,
        sources: Mapping[str, PackedSource],
        stages: Sequence[StageData],
        *,
        log: ScheduleLog | None = None,
        used: Ledger | None = None,
        order_seed: Mapping[str, int] | None = None,
        repeat: Mapping[str, int] | None = None,
        when_exhausted: Mapping[str, str] | None = None,
        seen_documents: Mapping[str, np.ndarray] | None = None,
        other_orders: bool = True,
        apart: Mapping[str, Apart] | None = None,
        seed: int = 0,
    ):
        """Prepares the order of every source.

        Args:
            sources: opened sources by name; `source_id` is the position in this mapping.
            stages: the plan; it starts the schedule log.
            log: a restored schedule log, which then holds instead of the plan's.
            used: rows used by the runs this one continues (not by this run itself).
            order_seed: per source, default 0.
            repeat: whole epochs per source, default 1.
            when_exhausted: per source, "error" (the default) or "renormalise": its share goes to the others then.
            seen_documents: per source, ids of documents to leave out, `[n, 2]`.
            other_orders: leave out rows that `used` has in other orders of the same source, see `SourceOrder`.
            apart: per source, which part of its rows is taken, where this is a branch that shares none.
            seed: decides the skips of stages with `pose`; nothing else.

        Raises:
            JaxptError: a mistake in the plan; one source under two names; a log of other sources.
        """
        self.sources, self.seed = dict(sources), seed
        names = tuple(self.sources)
        _all_different(self.sources)
        if log is not None and log.names != names:
            raise JaxptError(f"the checkpoint's sources are {', '.join(log.names)}, the run's are {', '.join(names)}")
        self.prior, self._other_orders = used or Ledger(), other_orders
        self._stages = list(stages)
        self.steps = stages[-1].first_step + stages[-1].steps
        self.orders = [
            SourceOrder(
                source,
                order_seed=(order_seed or {}).get(name, 0),
                repeat=(repeat or {}).get(name, 1),
                used=self.prior,
                seen_documents=(seen_documents or {}).get(name),
                other_orders=other_orders,
                name=name,
                apart=(apart or {}).get(name),
            )
            for name, source in self.sources.items()
        ]
        may_end = [(when_exhausted or {}).get(name, "error") == "renormalise" for name in names]
        self.limits = {o.name: o.rows for o, may in zip(self.orders, may_end) if may}
        self._committed = Mixture(
            plan_log(names, stages) if log is None else log, self.limits
        )  # walks with the training loop
        self.mixture = self._lookahead()  # walks with random access

    @property
    def log(self) -> ScheduleLog:
        """The schedule log as far as the training loop has come."""
        return self._committed.log

    def _lookahead(self) -> Mixture:
        """A mixture that walks on its own, so that reading ahead disturbs nobody."""
        return Mixture(self.log.copy(), self.limits)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `source_id [B]` and `row_id [B]` of the global batch at `step`."""
        return self._rows(self.mixture, step)

    def _rows(self, mixture: Mixture, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen, ordinal = mixture.sources(step)
        row = np.empty(len(chosen), np.int64)
        for i in np.unique(chosen):
            here = chosen == i
            row[here] = self.orders[i].take(ordinal[here])
        return chosen, row

    def batch(self, step: int, rows: slice | None = None) -> "Delivered":
        """Returns the batch at `step`, or the part of it that `rows` cuts out (a host's share).

        `source_id` counts the sources in their order, `row_id` the rows of each.
        """
        return self._deliver(self._planned(self.mixture, step), lambda size: rows)

    def _planned(self, mixture: Mixture, step: int) -> _Planned:
        """Which rows make up the batch at `step`: arithmetic on the mixture's walk, nothing is read."""
        first = mixture.row(step)
        source_id, row_id = self._rows(mixture, step)
        stage = [s for s in self._stages if s.first_step <= step][-1]
        return _Planned(source_id, row_id, first, stage.pose, stage.targets)

    def _deliver(self, planned: _Planned, rows: Callable[[int], slice | None]) -> "Delivered":
        """Reads the rows of a batch that `rows` cuts out."""
        size = len(planned.row_id)
        part = rows(size) or slice(None)
        source_id, row_id = planned.source_id[part], planned.row_id[part]
        out: Delivered = {**self._read(source_id, row_id), "source_id": source_id, "row_id": row_id}
        if planned.pose is not None:
            number = (planned.first + np.arange(size))[part]
            out["positions"] = skip(out["positions"], out["segment_ids"], planned.pose, self.seed, number)
        if planned.targets is not None:
            out |= planned.targets.read(source_id, row_id, out["loss_weights"])
        return out

    def _read(self, source_id: np.ndarray, row_id: np.ndarray) -> "Rows[np.ndarray]":
        sources = list(self.sources.values())
        raw = [b""] * len(row_id)
        kinds: dict[str, list[int]] = {}
        for i in np.unique(source_id):
            here = np.flatnonzero(source_id == i)
            for at, record in zip(here, sources[i].records(row_id[here])):
                raw[at] = record
            kinds.setdefault(sources[i].facts["dtype"], []).extend(here)
        length = sources[int(source_id[0])].sequence_length
        if len(kinds) == 1:
            return records.decode(raw, length, next(iter(kinds)))
        parts = {kind: records.decode([raw[i] for i in at], length, kind) for kind, at in kinds.items()}
        order = np.argsort(np.concatenate([np.array(at) for at in kinds.values()]))
        return records.joined(list(parts.values()), order)

    def iterate(
        self,
        start_step: int,
        rows: Callable[[int], slice | None] = lambda size: None,
        *,
        prefetch: int = 2,
        threads: int | None = None,
    ) -> Iterator[tuple[int, "Delivered"]]:
        """Yields `(step, batch)` from `start_step` to the plan's end, read ahead by `threads` threads.

        `rows` cuts a host's share out of a batch of the given size (None: all of it). `threads` None: one where all
        sources lie on this machine (more cost speed there), `REMOTE_THREADS` else. The batches do not depend on it.
        This follows the log as it is now: after `change`, iterate again.
        """
        if threads is None:
            threads = REMOTE_THREADS if any(is_remote(s.path) for s in self.sources.values()) else 1
        mixture, lock = self._lookahead(), threading.Lock()
        ahead: dict[int, _Planned] = {}
        next_step = start_step

        def batch(step: int) -> tuple[int, "Delivered"]:
            nonlocal next_step
            with lock:  # one walk for all threads, in the order of the steps
                while next_step <= step:
                    ahead[next_step] = self._planned(mixture, next_step)
                    next_step += 1
                planned = ahead.pop(step)
            return step, self._deliver(planned, rows)

        steps = grain.MapDataset.range(start_step, self.steps).map(lambda step: batch(int(step)))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
        yield from steps.to_iter_dataset(options)

    def change(self, step: int, weights: Mapping[str, float]) -> None:
        """Lets other weights hold from `step` to the next stage (a policy's decision); see `iterate`."""
        self._committed.change(step, weights)
        self.mixture = self._lookahead()

    def weights(self, step: int) -> dict[str, float]:
        """Returns the weights in force for the batch at `step`."""
        return {n: w / ONE for n, w in zip(self.log.names, self._committed.anchor(step).weights)}

    def deviation(self, step: int) -> dict[str, float]:
        """Returns rows ahead of the wanted ones since the run began, as `Mixture.deviation`."""
        return self._committed.deviation(step)

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Returns wanted and realised shares, as `Mixture.shares`."""
        return self._committed.shares(step)

    def ledger(self, step: int) -> Ledger:
        """Returns all rows used by earlier runs and by this one before `step`."""
        now = (e for o, count in zip(self.orders, self._committed.consumed(step)) for e in o.used(count))
        return Ledger([*self.prior.entries, *now])

    def to_save(self, step: int) -> DataItem:
        """Returns what a checkpoint at `step` keeps of the data: the log with an anchor at `step`, and the ledger."""
        anchor = self._committed.anchor(step)
        log = self.log.copy()
        log.insert(anchor)
        return {
            "schedule_log": log.to_json(),
            "ledger": self.ledger(step).to_json(),
            "prior_ledger": self.prior.to_json(),
            "other_orders": self._other_orders,
            "fingerprints": {n: s.fingerprint for n, s in self.sources.items()},
        }


def _all_different(sources: Mapping[str, PackedSource]) -> None:
    first: dict[str, str] = {}
    for name, source in sources.items():
        other = first.setdefault(source.fingerprint, name)
        if other != name:
            raise JaxptError(
                f"sources {other} and {name} hold the same rows ({source.path}), which would be used twice; name "
                f"them once"
            )
