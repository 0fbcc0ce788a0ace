"""The mixture: from (schedule log, step) to the rows of that global batch, and to nothing else."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxpt.data.log import Anchor, LogEntry, ScheduleLog
from jaxpt.data.quota import ONE, Quota, integer_weights
from jaxpt.data.weights import StageData
from jaxpt.errors import JaxptError

SNAPSHOT = 256  # steps between remembered states, so that going back costs little


class Mixture:
    """Which source each row of each batch comes from, and how many rows of each source came before.

    It walks from step to step: planned entries become anchors of the log as they are reached, and so does the end of a
    source that may end. Every walk over the same log finds the same anchors.
    """

    def __init__(self, log: ScheduleLog, limits: Mapping[str, int] | None = None):
        """Follows `log`, which grows at its end.

        Args:
            log: at least one anchor.
            limits: rows of the sources that may end: from the first batch that such a source cannot fill, its share
                goes to the others in proportion.
        """
        self.log = log
        self._limits = [(log.names.index(n), rows) for n, rows in (limits or {}).items()]
        self._seen: dict[int, tuple[int, ...]] = {}  # step -> rows consumed
        self._set(log.anchors[0].step, log.anchors[0].consumed)

    def sources(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source of each row of the batch at `step`, and its ordinal in that source, both `[B]`."""
        self._move_to(step)
        chosen, before = self._next()
        ordinal = np.empty(len(chosen), np.int64)
        for i in np.unique(chosen):
            here = chosen == i
            ordinal[here] = before[i] + np.arange(here.sum())
        return chosen, ordinal

    def consumed(self, step: int) -> tuple[int, ...]:
        """Returns the rows of each source in all batches before `step`."""
        self._move_to(step)
        return self._consumed()

    def anchor(self, step: int) -> Anchor:
        """Returns the anchor that a checkpoint at `step` appends: nothing before it is needed any more."""
        consumed = self.consumed(step)
        now = self.log.anchors[self.log.at(step)]
        return Anchor(step, now.batch_size, now.sequence_length, now.weights, self.row(step), consumed)

    def row(self, step: int) -> int:
        """Returns the number of rows in all batches before `step`."""
        self._move_to(step)
        a = self.log.anchors[self.log.at(step)]
        return a.row + (step - a.step) * a.batch_size

    def change(self, step: int, weights: Mapping[str, float], batch_size: int = 0, sequence_length: int = 0) -> None:
        """Lets other weights (and batch size) hold from `step` to the plan's next entry.

        Raises:
            JaxptError: invalid weights.
        """
        now = self.anchor(step)
        whole = integer_weights({n: weights.get(n, 0) for n in self.log.names}, "mixture")
        size, length = batch_size or now.batch_size, sequence_length or now.sequence_length
        self._insert(LogEntry(step, size, length, tuple(whole[n] for n in self.log.names)), now.row, now.consumed)

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the wanted shares of the batch before `step`, and those realised since these weights hold."""
        row, consumed = self.row(step), self.consumed(step)
        origin = self.log.origin(self.log.at(max(step - 1, self.log.anchors[0].step)))
        wanted = {n: w / ONE for n, w in zip(self.log.names, origin.weights)}
        rows = max(row - origin.row, 1)
        return wanted, {n: (c - o) / rows for n, c, o in zip(self.log.names, consumed, origin.consumed)}

    def deviation(self, step: int) -> dict[str, float]:
        """Returns consumed rows minus wanted rows since the run began, carried across changes of weights."""
        consumed = self.consumed(step)
        wanted = np.zeros(len(self.log.names))
        for a, b in zip(self.log.anchors, [*(x.step for x in self.log.anchors[1:]), None]):
            stop = step if b is None else min(b, step)
            wanted += max(stop - a.step, 0) * a.batch_size * np.array(a.weights) / ONE
        first = self.log.anchors[0].consumed
        return {n: c - f - w for n, c, f, w in zip(self.log.names, consumed, first, wanted)}

    def _move_to(self, step: int) -> None:
        """Moves to the beginning of `step`, from the nearest known state at or before it."""
        anchor = self.log.anchors[self.log.at(step)]
        if not anchor.step <= self._step <= step:
            at = max((s for s in self._seen if anchor.step <= s <= step), default=anchor.step)
            self._set(at, self._seen.get(at, anchor.consumed))
        while self._step < step:
            self._next()

    def _set(self, step: int, consumed: Sequence[int]) -> None:
        i = self.log.at(step)
        self._step, self._anchor, self._origin = step, self.log.anchors[i], self.log.origin(i)
        self._quota = Quota(self._origin.weights, [c - o for c, o in zip(consumed, self._origin.consumed)])

    def _consumed(self) -> tuple[int, ...]:
        return tuple(c + o for c, o in zip(self._quota.counts, self._origin.consumed))

    def _next(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Takes the batch at hand and moves on; returns the source of each row, and what was consumed before."""
        while True:
            before = self._consumed()
            chosen = self._quota.take(self._anchor.batch_size)
            after = self._consumed()
            ended = [i for i, rows in self._limits if after[i] > rows]
            if not ended:
                break
            self._end(ended, before)
        self._step += 1
        known = self.log.anchors[self.log.at(self._step)]
        due = self.log.planned(self._step)
        if known.step == self._step:
            self._set(self._step, known.consumed)
        elif due is not None and due.step == self._step:
            a = self._anchor
            self._insert(due, a.row + (self._step - a.step) * a.batch_size, after)
        elif self._step % SNAPSHOT == 0:
            self._seen[self._step] = after
        return chosen, before

    def _end(self, ended: Sequence[int], before: tuple[int, ...]) -> None:
        """Gives the shares of sources that cannot fill the batch at hand to the others, from this batch on."""
        a = self._anchor
        left = {str(i): 0 if i in ended else w for i, w in enumerate(a.weights)}
        if not any(left.values()):
            names = ", ".join(self.log.names[i] for i in ended)
            raise JaxptError(
                f"step {self._step}: {names} ended and no other source is left; set --config.sources.NAME.repeat higher"
            )
        weights = tuple(integer_weights(left).values())
        entry = LogEntry(self._step, a.batch_size, a.sequence_length, weights)
        self._insert(entry, a.row + (self._step - a.step) * a.batch_size, before)

    def _insert(self, entry: LogEntry, row: int, consumed: tuple[int, ...]) -> None:
        """Makes `entry` an anchor: it holds from its step on."""
        values = (entry.step, entry.batch_size, entry.sequence_length, entry.weights)
        self.log.insert(Anchor(*values, row, consumed))
        self._seen = {s: c for s, c in self._seen.items() if s <= entry.step}
        self._set(entry.step, consumed)


def plan_log(names: Sequence[str], stages: Sequence[StageData]) -> ScheduleLog:
    """Returns the log of a plan: an entry at each stage's first step, the first of them an anchor.

    Raises:
        JaxptError: no stages, a gap between them, or a weight for an unknown source.
    """
    entries = []
    for i, stage in enumerate(stages):
        if unknown := [n for n in stage.weights if n not in names]:
            raise JaxptError(
                f"stages[{i}].mixture.{unknown[0]}: there is no such source; sources are {', '.join(names)}"
            )
        if i and stage.first_step != stages[i - 1].first_step + stages[i - 1].steps:
            raise JaxptError(f"stages[{i}] begins at step {stage.first_step}, not where stages[{i - 1}] ends")
        whole = integer_weights({n: stage.weights.get(n, 0) for n in names}, f"stages[{i}].mixture")
        weights = tuple(whole[n] for n in names)
        entries.append(LogEntry(stage.first_step, stage.batch_size, stage.sequence_length, weights))
    if not entries:
        raise JaxptError("stages is empty; give at least one")
    first = entries[0]
    start = Anchor(first.step, first.batch_size, first.sequence_length, first.weights, 0, (0,) * len(names))
    return ScheduleLog(names, [start], entries)
