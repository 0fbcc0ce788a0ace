"""Opening a run: restored from its newest whole checkpoint or begun, and its files cut back to that step."""

import time
from collections.abc import Callable
from pathlib import Path

import jax

from jaxpt.checkpoints.checkpoints import Checkpoints
from jaxpt.checkpoints.restoring import Restored
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.config.schema import plain
from jaxpt.models.params import Array
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.sharding import on_first_process
from jaxpt.training import rollbacks
from jaxpt.training.active_run import ActiveRun, Log
from jaxpt.training.changes import changes
from jaxpt.training.feed import Feed
from jaxpt.training.interrupt import Interrupt
from jaxpt.training.metrics import MetricsLog
from jaxpt.training.program import Program, drawn_state, make_program
from jaxpt.training.rollbacks import PassedOver
from jaxpt.training.run_plan import RunPlan, continued
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.saving import retention
from jaxpt.training.speed import convention
from jaxpt.training.state import Layout, State, abstract_state


def open_run(
    plan: RunPlan,
    program: Program,
    peak: tuple[float, str],
    workdir: Path,
    make_feed: Callable[[RunPlan, RunItem | None], Feed],
    start: Callable[[Layout, BuiltOptimizer], State[Array]] | None,
    log: Log,
    from_step: int | None,
    check_writer: Callable[[], None],
    interrupt: Interrupt,
) -> ActiveRun:
    """Restores the run from a checkpoint, or begins it where there is none.

    `peak` is what `peak_flops` says of the devices; the other arguments and errors are those of `loop.train`.
    """
    config, (layout, optimizer, _) = plan.config, program
    checkpoints = Checkpoints(workdir, retention(plan), asynchronous=config.checkpoint.asynchronous)
    abstract = abstract_state(plan.model, optimizer, layout).to_items()
    passed = rollbacks.read(workdir)
    stale = rollbacks.stale(workdir, checkpoints.steps(), passed)
    begins = any(r.checkpoint == 0 for r in passed)
    restored = checkpoints.restore(abstract, log, from_step, plain(config), stale, may_begin=begins)
    saved = restored.run if restored else None
    if saved:
        plan = continued(plan, saved)
        if any(stage.step not in program.steps for stage in plan.stages):  # an older checkpoint than was planned from
            more = make_program(plan, layout.mesh.devices.flatten().tolist()).steps
            program = program._replace(steps={**more, **program.steps})
        checkpoints.retention = retention(plan)
    feed = make_feed(plan, saved)  # before anything is set aside or cut back: it may refuse the config
    passed = _with_those_of(saved, workdir, passed, log)
    set_aside = checkpoints.go_back(restored or Restored({}, {}, [], stale), log) if restored or stale else []
    metrics = _open_metrics(plan, workdir, layout, saved, set_aside)
    if restored:
        state: State[Array] = State(**restored.state)
    else:
        state = start(layout, optimizer) if start else drawn_state(plan, program)
    state, lines = Safeguards.of(config).begin(state, layout, optimizer.specs)
    for line in lines:
        log(line)
    log(f"MFU: {_counted(plan)}; {peak[1]}")
    if saved:
        for line in (f"resumed at step {saved['step']} of {plan.steps}", *changes(plan, saved)):
            log(line)
    return ActiveRun(
        plan=plan,
        workdir=workdir,
        program=program,
        peak_flops=peak[0],
        feed=feed,
        checkpoints=checkpoints,
        metrics=metrics,
        log=log,
        check_writer=check_writer,
        interrupt=interrupt,
        state=state,
        step=saved["step"] if saved else 0,
        passed=passed,
    )


def _with_those_of(
    saved: RunItem | None, workdir: Path, passed: tuple[PassedOver, ...], log: Log
) -> tuple[PassedOver, ...]:
    """Returns the rollbacks of the run; those that only its checkpoint still knows are written again."""
    known = [[r.first, r.stop] for r in passed]
    lost = [r for r in (saved or {}).get("passed", []) if r not in known]
    for first, stop in lost:
        again = PassedOver(first, stop, first, saved["step"] if saved else 0, "as a checkpoint says", time.time())
        on_first_process(lambda entry=again: rollbacks.append(workdir, entry))  # type: ignore[misc]
        log(f"{workdir / rollbacks.NAME} lacks the steps {first + 1} to {stop}, as passed over; written again")
        passed = (*passed, again)
    return passed


def _open_metrics(plan: RunPlan, workdir: Path, layout: Layout, saved: RunItem | None, aside: list[str]) -> MetricsLog:
    """Opens the metrics, cut back to the step that was resumed at, and notes how the run goes on."""
    step = saved["step"] if saved else 0
    metrics = MetricsLog(workdir, step, tensorboard=plan.config.metrics.tensorboard, write=jax.process_index() == 0)
    kind, facts = ("resume" if saved else "start"), {}
    if plan.branch and plan.branch["step"] == step:
        kind, facts = "branch", {"run": plan.branch["run"]}
    metrics.event(kind, step, devices=jax.device_count(), mesh=dict(layout.mesh.shape), **facts)
    if aside:
        metrics.event("set aside", step, checkpoints=aside)
    return metrics


def _counted(plan: RunPlan) -> str:
    frozen = any(stage.config.objective.frozen() for stage in plan.stages)
    return convention(frozen, "fp8" in plan.config.compute.matmul)
