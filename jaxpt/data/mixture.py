"""The mixture: from (schedule log, step) to the rows of that global batch, and to nothing else."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxpt.data.log import Anchor, ScheduleLog
from jaxpt.data.plan import StageData
from jaxpt.data.quota import ONE, Quota, integer_weights
from jaxpt.errors import JaxptError

SNAPSHOT = 256  # steps between remembered states, so that going back costs little


class Mixture:
    """Which source each row of each batch comes from, and how many rows of each source came before."""

    def __init__(self, log: ScheduleLog):
        """Follows `log`, which may grow at its end."""
        self.log = log
        self._walk: tuple[Anchor, int, Quota] | None = None  # the anchor followed, the next step, its state
        self._seen: dict[int, tuple[int, ...]] = {}  # step -> rows consumed

    def sources(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the source of each row of the batch at `step`, and its ordinal in that source, both `[B]`."""
        anchor, quota = self._go(step)
        origin = self._origin(step)
        before = np.array(quota.counts) + np.array(origin.consumed)
        chosen = quota.take(anchor.batch_size)
        self._walk = (anchor, step + 1, quota)
        ordinal = np.empty(len(chosen), np.int64)
        for i in np.unique(chosen):
            here = chosen == i
            ordinal[here] = before[i] + np.arange(here.sum())
        if (step + 1) % SNAPSHOT == 0:
            self._seen[step + 1] = tuple(int(c) for c in np.array(quota.counts) + np.array(origin.consumed))
        return chosen, ordinal

    def consumed(self, step: int) -> tuple[int, ...]:
        """Returns the rows of each source in all batches before `step`."""
        if not step:
            return self.log.anchors[0].consumed
        _, quota = self._go(step - 1)
        origin = self._origin(step - 1)
        ahead = Quota(quota.weights, quota.counts)
        ahead.take(self.log.anchors[self.log.at(step - 1)].batch_size)
        return tuple(a + b for a, b in zip(ahead.counts, origin.consumed))

    def anchor(self, step: int) -> Anchor:
        """Returns the anchor that a checkpoint at `step` appends: nothing before it is needed any more."""
        now = self.log.anchors[self.log.at(max(step - 1, 0))]
        return Anchor(step, self.row(step), now.batch_size, now.sequence_length, now.weights, self.consumed(step))

    def row(self, step: int) -> int:
        """Returns the number of rows in all batches before `step`."""
        a = self.log.anchors[self.log.at(max(step - 1, 0))]
        return a.row + (step - a.step) * a.batch_size

    def change(self, step: int, weights: Mapping[str, float], batch_size: int = 0, sequence_length: int = 0) -> None:
        """Lets other weights (and batch size) hold from `step` on; later entries of the log are dropped."""
        now = self.anchor(step)
        whole = integer_weights({n: weights.get(n, 0) for n in self.log.names}, "mixture")
        self.log.anchors = [a for a in self.log.anchors if a.step < step]
        size, length = batch_size or now.batch_size, sequence_length or now.sequence_length
        self.log.insert(Anchor(step, now.row, size, length, tuple(whole[n] for n in self.log.names), now.consumed))
        self._walk = None
        self._seen = {s: c for s, c in self._seen.items() if s <= step}

    def shares(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the wanted shares of the batch before `step`, and those realised since these weights hold."""
        last = max(step - 1, 0)
        origin, row = self._origin(last), self.row(step)
        wanted = {n: w / ONE for n, w in zip(self.log.names, origin.weights)}
        rows = max(row - origin.row, 1)
        real = {n: (c - o) / rows for n, c, o in zip(self.log.names, self.consumed(step), origin.consumed)}
        return wanted, real

    def deviation(self, step: int) -> dict[str, float]:
        """Returns consumed rows minus wanted rows since the run began, carried across changes of weights."""
        wanted = np.zeros(len(self.log.names))
        for a, b in zip(self.log.anchors, [*(x.step for x in self.log.anchors[1:]), None]):
            stop = step if b is None else min(b, step)
            wanted += max(stop - a.step, 0) * a.batch_size * np.array(a.weights) / ONE
        first = self.log.anchors[0].consumed
        return {n: c - f - w for n, c, f, w in zip(self.log.names, self.consumed(step), first, wanted)}

    def _origin(self, step: int) -> Anchor:
        return self.log.origin(self.log.at(step))

    def _go(self, step: int) -> tuple[Anchor, Quota]:
        """Returns the anchor in force and the quota as it stands before `step`."""
        anchor = self.log.anchors[self.log.at(step)]
        if self._walk is not None and self._walk[0] == anchor and self._walk[1] <= step:
            _, at, quota = self._walk
        else:
            at = max([s for s in self._seen if anchor.step <= s <= step], default=anchor.step)
            origin = self._origin(step)
            known = self._seen[at] if at > anchor.step else anchor.consumed
            quota = Quota(anchor.weights, [c - o for c, o in zip(known, origin.consumed)])
        quota.take((step - at) * anchor.batch_size)
        self._walk = (anchor, step, quota)
        return anchor, quota


def plan_log(names: Sequence[str], stages: Sequence[StageData]) -> ScheduleLog:
    """Returns the log of a plan: an anchor at each stage's first step.

    Raises:
        JaxptError: no stages, a gap between them, or a weight for an unknown source.
    """
    log = ScheduleLog(names)
    mixture = Mixture(log)
    for i, stage in enumerate(stages):
        if unknown := [n for n in stage.weights if n not in names]:
            raise JaxptError(
                f"stages[{i}].mixture.{unknown[0]}: there is no such source; sources are {', '.join(names)}"
            )
        whole = integer_weights({n: stage.weights.get(n, 0) for n in names}, f"stages[{i}].mixture")
        weights = tuple(whole[n] for n in names)
        if not log.anchors:
            log.insert(Anchor(0, 0, stage.batch_size, stage.sequence_length, weights, (0,) * len(names)))
            continue
        if stage.first_step != stages[i - 1].first_step + stages[i - 1].steps:
            raise JaxptError(f"stages[{i}] begins at step {stage.first_step}, not where stages[{i - 1}] ends")
        mixture.change(stage.first_step, stage.weights, stage.batch_size, stage.sequence_length)
    if not log.anchors:
        raise JaxptError("stages is empty; give at least one")
    return log
