"""A run's data on a restart: the schedule log goes on, and every row already taken is still known by its place."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxpt.data.ledger import Ledger
from jaxpt.data.log import LogEntry, ScheduleLog
from jaxpt.data.mixture import Mixture, plan_log
from jaxpt.data.order import SourceOrder
from jaxpt.data.packed import PackedSource
from jaxpt.data.weights import StageData
from jaxpt.errors import JaxptError

Saved = Mapping[str, Any]  # the `run` item of a checkpoint

ANOTHER_RUN = "or begin another run with init_from set to this one, which takes none of its rows again"


def resumed_log(saved: Saved, stages: Sequence[StageData], names: Sequence[str]) -> ScheduleLog:
    """Returns what was logged up to the saved step, and from there on what the plan says now.

    Args:
        saved: the checkpoint; sources that are not in its log join it at this step.
        stages: the plan: done stages as they were, the others as the config has them now.
        names: of the run's sources.
    """
    step, before = saved["step"], ScheduleLog.from_json(saved["schedule_log"]).arranged(names)
    log = ScheduleLog(names, [a for a in before.anchors if a.step <= step], plan_log(names, stages).entries)
    now, reached = log.planned(step), log.anchors[log.at(step)]
    assert now is not None  # a plan has an entry from its first step on
    weights = now.weights if now.step == step else _in_force(before, now)
    wanted = LogEntry(step, now.batch_size, now.sequence_length, weights)
    if wanted != LogEntry(step, reached.batch_size, reached.sequence_length, reached.weights):
        Mixture(log).change(step, dict(zip(names, weights)), now.batch_size, now.sequence_length)
    return log


def joined(saved: Saved, names: Sequence[str]) -> list[dict[str, object]]:
    """Returns the sources that joined the run on the way, `{"sources": …, "ledger": …}` per restart that added some.

    The ledger is as it was then: its documents are left out of those sources, however often the run is started again.
    """
    new = [n for n in names if n not in saved["schedule_log"]["names"]]
    return [*saved.get("joined", []), *([{"sources": new, "ledger": saved["ledger"]}] if new else [])]


def check_sources(saved: Saved, sources: Mapping[str, PackedSource], paths: Mapping[str, str]) -> None:
    """Raises a JaxptError where a source of the run is missing, or holds other rows than those it began with.

    Args:
        saved: the checkpoint.
        sources: the run's, opened.
        paths: as the config has them.
    """
    for name, before in saved["fingerprints"].items():
        now = sources.get(name)
        if now is not None and now.fingerprint != before:
            raise JaxptError(
                f"config.sources.{name}: {paths[name]} is not the source this run began with (content "
                f"{now.fingerprint[:12]}, was {before[:12]}); restore it (a new one needs a new name), {ANOTHER_RUN}"
            )
        if now is None and _was_used(saved, name):
            renamed = [n for n, s in sources.items() if s.fingerprint == before]
            what = f"is missing, {renamed[0]} holds its rows" if renamed else "is missing"
            way = (
                "give it its name again"
                if renamed
                else "keep it, with a weight of 0 in the mixtures to take no more of it"
            )
            raise JaxptError(f"config.sources.{name} {what}, and this run has used it; {way}, {ANOTHER_RUN}")


def check_rows(
    saved: Saved, orders: Sequence[SourceOrder], consumed: Sequence[int], prior: Ledger, left_out: bool
) -> None:
    """Raises a JaxptError where the rows taken before the checkpoint are no longer those that its ledger has.

    The next rows follow from where those lie in each source's order: were they others now, rows would come twice, and
    the ledger would say something else than what was trained on.

    Args:
        saved: the checkpoint.
        orders: the `SourceOrder` of each source as the config has it now.
        consumed: rows taken of each.
        prior: rows used by the runs this one continues.
        left_out: `leave_out_seen` now.
    """
    before = Ledger.from_json(saved["ledger"])
    for order, count in zip(orders, consumed):
        fingerprint = order.source.fingerprint
        there = Ledger([*(e for e in prior.entries if e.fingerprint == fingerprint), *order.used(count)])
        if count <= order.rows and _places(there, fingerprint) == _places(before, fingerprint):
            continue
        where = f"config.sources.{order.name}"
        mine = [e for e in before.entries if e.fingerprint == fingerprint and e not in prior.entries]
        epochs = 1 + max((e.epoch for e in mine), default=0)
        if order.key not in {e.key for e in mine}:
            was = saved.get("order_seeds", {}).get(order.name)
            reason = f"{where}.order_seed has changed" if was is None else f"{where}.order_seed was {was}"
            way = "take that value back" if was is not None else "take the value in the config.json of the run"
        elif epochs > order.repeat:
            reason, way = f"{where}.repeat is {order.repeat}, rows were taken {epochs} times", f"set it to {epochs}"
        elif saved.get("leave_out_seen", left_out) != left_out:
            reason, way = f"config.leave_out_seen was {not left_out}", "take that value back"
        else:
            reason = f"{where}: other rows are left out than when the run took its rows"
            way = "restore config.leave_out_seen, repeat and order_seed"
        raise JaxptError(
            f"{reason}; the {count:,} rows that this run has taken of {order.name} would not be known any more and "
            f"would come again; {way}, {ANOTHER_RUN}"
        )


def _in_force(before: ScheduleLog, now: LogEntry) -> tuple[int, ...]:
    """The weights of the stage that goes on: as they were moved on the way, unless the config has others now."""
    step = before.anchors[-1].step
    at = step - 1 if any(e.step == step for e in before.entries) else step  # the stage was planned to end here
    was = before.planned(at)
    same = was is not None and was.weights == now.weights
    return before.anchors[before.at(at)].weights if same else now.weights


def _was_used(saved: Saved, name: str) -> bool:
    log = ScheduleLog.from_json(saved["schedule_log"])
    i = log.names.index(name)
    return any(a.weights[i] or a.consumed[i] for a in log.anchors)


def _places(ledger: Ledger, fingerprint: str) -> set[tuple[str, int, int, int, int]]:
    return {(e.key, e.epoch, e.start, e.stop, e.every) for e in ledger.entries if e.fingerprint == fingerprint}
