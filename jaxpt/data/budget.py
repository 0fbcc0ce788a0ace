"""The budget: rows that all stages take of every source against rows there, before step one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxpt.cli.terminal import table
from jaxpt.data.log import Anchor, ScheduleLog
from jaxpt.data.mixture import Mixture
from jaxpt.data.order import SourceOrder
from jaxpt.data.quota import ONE
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Line:
    """One source's part. `needed` and `there` are rows of this run, restarts included; `ends`: at about which step."""

    name: str
    rows: int  # of one epoch
    repeat: int
    used: int  # by runs before this one, or left out
    there: int
    needed: int
    tokens: int  # real ones, without padding, in the rows needed
    ends: int | None
    stages: tuple[int, ...]  # those that give it a weight

    @property
    def short(self) -> bool:
        """Whether the source would run out."""
        return self.needed > self.there


def budget(log: ScheduleLog, orders: Sequence[SourceOrder], limits: Mapping[str, int], steps: int) -> list[Line]:
    """Counts what the plan takes of each source from where `log` ends.

    Arithmetic, not a walk over all rows: each leg of constant weights takes w × rows, within one row, and a leg ends
    where a source of `limits` does. Only where that leaves it open whether a source suffices are the rows walked.

    Args:
        log: the schedule log; its newest anchor says what was taken so far.
        orders: a `SourceOrder` per name of the log.
        limits: rows of the sources that may end, whose share goes to the others then.
        steps: of the whole run.

    Raises:
        JaxptError: every source of some leg may end, and does.
    """
    taken, doubt, ends = _estimate(log, limits, steps)
    open_ = [i for i, o in enumerate(orders) if o.name not in limits and abs(o.rows - taken[i]) < doubt]
    exact = Mixture(log.copy(), limits).consumed(steps) if open_ else ()
    lines = []
    for i, order in enumerate(orders):
        needed = exact[i] if exact else math.ceil(taken[i] - 1e-6)
        if order.name in limits:
            needed = min(needed, order.rows)
        whole = order.source.rows * order.repeat
        mean = order.source.tokens / max(order.source.rows, 1)
        stages = tuple(n for n, e in enumerate(log.entries) if e.weights[i])
        facts = (order.name, order.source.rows, order.repeat, whole - order.rows, order.rows)
        lines.append(Line(*facts, needed, round(mean * needed), ends.get(i), stages))
    return lines


def check(lines: Sequence[Line]) -> None:
    """Raises a JaxptError for the first source that would run out, with both numbers and the way out."""
    for line in lines:
        if not line.short:
            continue
        enough = math.ceil((line.needed + line.used) / max(line.rows, 1))
        where = ", ".join(f"stages[{i}]" for i in line.stages)
        raise JaxptError(
            f"config.sources.{line.name} has {line.there:,} rows for this run, the plan needs {line.needed:,}; set "
            f"--config.sources.{line.name}.repeat={enough}, or when_exhausted=renormalise there, or "
            f"lower its weight in {where}"
        )


def show(lines: Sequence[Line]) -> str:
    """Returns the budget as a table."""
    head = ["budget", "rows", "repeat", "used before", "rows there", "needed", "left", "tokens", ""]
    body = []
    for line in lines:
        left = max(line.there - line.needed, 0)
        note = "TOO FEW" if line.short else ""
        if line.ends is not None:
            note = f"ends near step {line.ends:,}, its share goes to the others"
        row = [line.name, line.rows, line.repeat, line.used, line.there, line.needed, left, line.tokens, note]
        body.append(row)
    return table(head, body)


def _estimate(log: ScheduleLog, limits: Mapping[str, int], steps: int) -> tuple[list[float], float, dict[int, int]]:
    """Returns rows taken of each source at the end, by how much that may be off, and at which step sources end."""
    now: Anchor = log.anchors[-1]
    taken = [float(c) for c in now.consumed]
    ends: dict[int, int] = {}
    limited = {log.names.index(n): rows for n, rows in limits.items()}
    legs = [now, *(e for e in log.entries if e.step > now.step)]
    doubt = 1.0
    for leg, stop in zip(legs, [*(e.step for e in legs[1:]), steps]):
        rows = float(max(stop - leg.step, 0) * leg.batch_size)
        weights = [w / ONE for w in leg.weights]
        doubt += 1
        while rows > 0:
            until = {i: max(n - taken[i], 0) / weights[i] for i, n in limited.items() if weights[i]}
            part = min([rows, *until.values()])
            taken = [t + w * part for t, w in zip(taken, weights)]
            rows -= part
            gone = [i for i, n in until.items() if n <= part and rows > 0]
            for i in gone:
                ends.setdefault(i, stop - math.ceil(rows / leg.batch_size))
                weights[i] = 0.0
            if gone:
                doubt += leg.batch_size  # it ends with a whole batch
                total = sum(weights)
                if not total:
                    names = ", ".join(log.names[i] for i in gone)
                    raise JaxptError(f"near step {stop - math.ceil(rows / leg.batch_size)} {names} would end and no "
                                     f"other source is left; set --config.sources.NAME.repeat higher")  # fmt: skip
                weights = [w / total for w in weights]
    return taken, doubt, ends
