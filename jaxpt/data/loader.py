"""The loader: global batches as a pure function of the step, on any number of hosts, read ahead through Grain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from jaxpt.data import records
from jaxpt.data.ledger import Ledger
from jaxpt.data.log import ScheduleLog
from jaxpt.data.mixture import Mixture, plan_log
from jaxpt.data.order import SourceOrder
from jaxpt.data.packed import PackedSource
from jaxpt.data.plan import StageData
from jaxpt.data.pose import skip
from jaxpt.data.quota import ONE
from jaxpt.errors import JaxptError


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
            seed: decides the skips of stages with `pose`; nothing else.

        Raises:
            JaxptError: a mistake in the plan; a log of other sources.
        """
        self.sources, self.seed = dict(sources), seed
        names = tuple(self.sources)
        if log is not None and log.names != names:
            raise JaxptError(f"the checkpoint's sources are {', '.join(log.names)}, the run's are {', '.join(names)}")
        self.prior = used or Ledger()
        self._pose = [(s.first_step, s.pose) for s in stages]
        self.steps = stages[-1].first_step + stages[-1].steps
        self.orders = [
            SourceOrder(
                source,
                order_seed=(order_seed or {}).get(name, 0),
                repeat=(repeat or {}).get(name, 1),
                used=self.prior,
                seen_documents=(seen_documents or {}).get(name),
                name=name,
            )
            for name, source in self.sources.items()
        ]
        may_end = [(when_exhausted or {}).get(name, "error") == "renormalise" for name in names]
        self.limits = {o.name: o.rows for o, may in zip(self.orders, may_end) if may}
        self._told = Mixture(plan_log(names, stages) if log is None else log, self.limits)  # walks with the loop
        self.mixture = self._another()  # walks with random access

    @property
    def log(self) -> ScheduleLog:
        """The schedule log as far as the training loop has come."""
        return self._told.log

    def _another(self) -> Mixture:
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

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        """Returns the batch at `step`, or the part of it that `rows` cuts out (a host's share).

        `tokens, targets, segment_ids, positions [B, S]` int32, `loss_weights [B, S]` float32, `source_id [B]` int32,
        `row_id [B]` int64.
        """
        return self._batch(self.mixture, step, lambda size: rows)

    def _batch(self, mixture: Mixture, step: int, rows: Callable[[int], slice | None]) -> dict[str, np.ndarray]:
        first = mixture.row(step)
        source_id, row_id = self._rows(mixture, step)
        part = rows(len(source_id)) or slice(None)
        source_id, row_id, number = source_id[part], row_id[part], (first + np.arange(len(row_id)))[part]
        out = {**self._read(source_id, row_id), "source_id": source_id, "row_id": row_id}
        pose = [p for first_step, p in self._pose if first_step <= step][-1]
        if pose is not None:
            out["positions"] = skip(out["positions"], out["segment_ids"], pose, self.seed, number)
        return out

    def _read(self, source_id: np.ndarray, row_id: np.ndarray) -> dict[str, np.ndarray]:
        sources = list(self.sources.values())
        raw: list[Any] = [None] * len(row_id)
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
        return {k: np.concatenate([p[k] for p in parts.values()])[order] for k in next(iter(parts.values()))}

    def iterate(
        self,
        start_step: int,
        rows: Callable[[int], slice | None] = lambda size: None,
        *,
        prefetch: int = 2,
        threads: int = 1,
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields `(step, batch)` from `start_step` to the plan's end; batches are read ahead in `threads` threads.

        `rows` cuts a host's share out of a batch of the given size (None: all of it). One thread keeps the mixture's
        walk in order; more pay only for remote paths. This follows the log as it is now: after `change`, iterate anew.
        """
        mixture = self._another()
        steps = grain.MapDataset.range(start_step, self.steps).map(
            lambda step: (int(step), self._batch(mixture, int(step), rows))
        )
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        yield from steps.to_iter_dataset(options)

    def change(self, step: int, weights: Mapping[str, float]) -> None:
        """Lets other weights hold from `step` to the next stage (a policy's decision); see `iterate`."""
        self._told.change(step, weights)
        self.mixture = self._another()

    def weights(self, step: int) -> dict[str, float]:
        """Returns the weights in force for the batch at `step`."""
        return {n: w / ONE for n, w in zip(self.log.names, self._told.anchor(step).weights)}

    def deviation(self, step: int) -> dict[str, float]:
        """Returns rows ahead of the wanted ones since the run began, as `Mixture.deviation`."""
        return self._told.deviation(step)

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Returns wanted and realised shares, as `Mixture.shares`."""
        return self._told.shares(step)

    def ledger(self, step: int) -> Ledger:
        """Returns all rows used by earlier runs and by this one before `step`."""
        out = Ledger(self.prior.entries)
        for order, count in zip(self.orders, self._told.consumed(step)):
            for entry in order.used(count):
                out.add(entry)
        return out

    def to_save(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint at `step` keeps of the data: the log with an anchor at `step`, and the ledger."""
        anchor = self._told.anchor(step)
        log = self.log.copy()
        log.insert(anchor)
        return {
            "schedule_log": log.to_json(),
            "ledger": self.ledger(step).to_json(),
            "prior_ledger": self.prior.to_json(),
            "fingerprints": {n: s.fingerprint for n, s in self.sources.items()},
        }
