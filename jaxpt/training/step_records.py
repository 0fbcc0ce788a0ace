"""The record of a step in the metrics: its loss and norms, the mixture, the speed; compared where it repeats one."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxpt.checkpoints.checkpoints import Checkpoints
from jaxpt.config.duration import Duration
from jaxpt.errors import JaxptError
from jaxpt.optim.guard import Protecting
from jaxpt.training.active_run import ActiveRun
from jaxpt.training.events import Changes, Due, Event, RunView


class StepRecords(Event):
    """Logs every N steps and at stage ends, and stops where a value of the step is not finite."""

    name = "step record"
    pauses_clock = False

    def __init__(self, run: ActiveRun):
        """Writes to the metrics of `run`."""
        self.due = Due(every=Duration(run.plan.config.metrics.every, "steps"), stage_ends=True)
        self._run = run

    def act(self, view: RunView) -> Changes:
        """Writes the record itself: it comes before the error that a value in it may be."""
        run, record = self._run, self._record(view)
        run.record(record)
        loss, targets = record.get("train/loss"), f"{record['train/targets']:,.0f}"
        if run.progress is not None:
            shown = {"loss": "-" if loss is None else f"{loss:.3f}", "targets": targets}
            run.progress.set_postfix({**shown, **view.stage.config.objective.live(record)}, refresh=False)
        self._compare(view.step, record)
        check_step(run, view.step, {k: v for k, v in record.items() if not k.startswith("perf/")})
        if view.step == view.stage.whole[1]:
            run.log(f"stage {view.stage.config.name} ends at step {view.step}: {_losses(record)}")
        return Changes()

    def _record(self, view: RunView) -> dict[str, Any]:
        run, stage, step = self._run, view.stage, view.step
        record: dict[str, Any] = {"stage": stage.config.name, "tokens": view.tokens, **view.metrics}
        if run.trained_tokens != view.tokens:
            record["trained_tokens"] = run.trained_tokens
        record["flops"] = run.plan.flops_at(step)
        by_source = jax.device_get([run.values.get(key, ()) for key in ("source_nll", "source_weight")])
        for name, nll, weight in zip(run.plan.source_names, *by_source):
            if weight > 0:
                record[f"train/loss/{name}"] = float(nll / weight)
        record |= run.feed.metrics(step)
        record["optim/learning_rate"] = stage.rate(step - 1)
        if stage.config.objective.frozen():
            record["perf/frozen_share"] = run.plan.frozen_share(stage)
        flops = run.plan.flops_per_token(stage)
        return record | run.clock.lap(stage.config.tokens_per_step, flops, run.peak_flops)

    def _compare(self, step: int, record: Mapping[str, Any]) -> None:
        """Says whether the first step that was trained before, too, came out the same."""
        losses = self._run.metrics.replayed(step, record)
        if losses is None:
            return
        now, before = losses
        same = repr(now) == repr(before)  # also where both are NaN
        self._run.metrics.event("replayed", step, loss=now, before=before, identical=same)
        comparison = "as before" if same else f"{before!r} before: another mesh or machine, or damaged data"
        self._run.log(f"replayed step {step}: loss {now!r}, {comparison}")


def _losses(record: Mapping[str, Any]) -> str:
    """The loss of a step and, where there are several, those of its sources."""
    if "train/loss" not in record:
        return "no loss, its last batch has no target"
    by_source = {k.removeprefix("train/loss/"): v for k, v in record.items() if k.startswith("train/loss/")}
    parts = ", ".join(f"{name} {value:.4f}" for name, value in by_source.items())
    return f"loss {record['train/loss']:.4f}" + (f" ({parts})" if len(by_source) > 1 else "")


def check_step(run: ActiveRun, step: int, values: Mapping[str, Any]) -> None:
    """Raises a JaxptError where a value of a step is not finite, unless the guard has kept it from the state.

    With a guard the run goes on, until so many steps in a row as its `patience` were not finite.
    """
    guard = run.plan.config.guard
    if not run.was_skipped:
        check_finite(step, values, run.checkpoints)
    elif isinstance(guard, Protecting) and (count := int(run.values["in_a_row"])) >= guard.patience:
        raise JaxptError(
            f"the last {count} steps, up to step {step}, were not finite (config.guard.patience is {guard.patience}); "
            f"{run.checkpoints.way_back()}"
        )


def check_finite(step: int, values: Mapping[str, Any], checkpoints: Checkpoints) -> None:
    """Raises a JaxptError where a value of a step is NaN or infinite: what follows from it would be lost time."""
    for name, value in values.items():
        if not isinstance(value, str) and not np.all(np.isfinite(value)):
            what = "the loss" if name == "train/loss" else name
            raise JaxptError(f"{what} at step {step} is {value}; {checkpoints.way_back()}")
