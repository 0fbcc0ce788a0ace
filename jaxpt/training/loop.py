"""The run: stages of steps, and between two steps what is due: records, checkpoints, evaluations; resumed anywhere."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.sharding import batch_sharding
from jaxpt.training.active_run import ActiveRun, Log
from jaxpt.training.batches import host_rows, place
from jaxpt.training.events import Event, RunView
from jaxpt.training.feed import Feed
from jaxpt.training.frozen import pin_frozen, with_frozen
from jaxpt.training.history import newest_saved
from jaxpt.training.interrupt import EXIT_PREEMPTED, Interrupt, Preemption
from jaxpt.training.opening import open_run
from jaxpt.training.program import make_program
from jaxpt.training.run_plan import RunPlan, StagePlan
from jaxpt.training.saving import Saving
from jaxpt.training.speed import peak_flops
from jaxpt.training.stage_start import begin_stage
from jaxpt.training.state import Layout, State
from jaxpt.training.step_records import StepRecords


def train(
    plan: RunPlan,
    workdir: Path,
    make_feed: Callable[[RunPlan, RunItem | None], Feed],
    start: Callable[[Layout, BuiltOptimizer], State] | None = None,
    events: Sequence[Event] = (),
    log: Log = print,
    devices: Sequence[jax.Device] | None = None,
    from_step: int | None = None,
    check_writer: Callable[[], None] = lambda: None,
) -> int:
    """Trains `plan` in `workdir`, from its newest whole checkpoint if there is one.

    Args:
        plan: a checked run.
        workdir: the run directory, prepared by `run_directory.prepare`.
        make_feed: builds the feed from the plan and the `run` item of the restored checkpoint (None: a new run).
        start: makes the first state where parameters come from elsewhere; None: drawn from the seed.
        events: what happens between two steps besides records and checkpoints, in this order: evaluations, a mixture
            that is reweighted, what a user adds.
        log: receives lines for the person watching.
        devices: default all devices of all hosts.
        from_step: go on from this checkpoint and set later ones aside; None: from the newest.
        check_writer: raises where another process has taken over the directory; called before each write.

    Returns:
        0 when the run is finished, `EXIT_PREEMPTED` (75) when SIGTERM or an event asked to stop and all is saved.

    Raises:
        JaxptError: a full disk, no whole checkpoint beside those that were set aside, a checkpoint that cannot be read
            for another reason than damage, a value or a state that is not finite.
    """
    plan = with_frozen(plan, pin_frozen(plan.config.stages, newest_saved(workdir, from_step), plan.frozen))
    program = make_program(plan, devices)
    all_devices = program.layout.mesh.devices.flatten().tolist()
    peak = peak_flops(plan.config.metrics.peak_flops_per_device, all_devices)  # may measure, outside the mesh
    with jax.set_mesh(program.layout.mesh), Interrupt() as interrupt:
        run = open_run(plan, program, peak, workdir, make_feed, start, log, from_step, check_writer)
        run.events = _in_order(run, events, interrupt)
        try:
            code = _train(run)
            run.checkpoints.close()
        finally:
            run.metrics.close()
        return code


def _in_order(run: ActiveRun, events: Sequence[Event], interrupt: Interrupt) -> list[Event]:
    """Returns all that happens between two steps, in the order in which it happens."""
    followers = [event for event in events if event.after_checkpoint]
    records = StepRecords(run)
    return [
        *(event for event in events if not event.after_checkpoint),
        records,
        Preemption(interrupt, records.due),
        Saving(run, followers),
        *followers,
    ]


def _train(run: ActiveRun) -> int:
    """Runs what is left of every stage; returns the exit code."""
    plan = run.plan
    # an event before the first step; where the run goes on, one that a kill may have interrupted
    begin = [event for event in run.events if (event.due.first if run.step == 0 else event.after_checkpoint)]
    if _act(run, begin):
        return EXIT_PREEMPTED
    with progress(plan.tokens_at(plan.steps), "train", "tok", start=plan.tokens_at(run.step), scale=True) as bar:
        bar.disable = jax.process_index() != 0
        run.progress = bar
        if run.done:
            return 0
        _read(run)
        for stage in plan.stages[plan.stage_of(run.step) :]:
            if _train_stage(run, stage, bar):
                return EXIT_PREEMPTED
    return 0


def _read(run: ActiveRun) -> None:
    """Reads batches from the next step on, under the schedule log as it is now."""
    run.batches = run.feed.iterate(run.step, functools.partial(host_rows, run.program.layout.mesh))


def _train_stage(run: ActiveRun, stage: StagePlan, bar: tqdm) -> bool:
    """Runs one stage from where the run is; returns whether to stop."""
    program, config = run.program, run.plan.config
    run.state, arguments, lines = begin_stage(
        run.state, stage, program.layout, program.optimizer, config.seed, run.step, run.plan.frozen
    )
    for line in lines:
        run.log(line)
    run.metrics.event("stage", run.step, stage=stage.config.name)
    step, sharding = run.program.steps[stage.step], batch_sharding(run.program.layout.mesh)
    if not step._cache_size():
        run.clock.cold()
    while run.step < stage.stop:
        with run.clock.wait():
            number, batch = next(run.batches)
        if number != run.step:
            raise RuntimeError(f"the feed gave batch {number} for step {run.step}")
        before, given = run.values, arguments(run.step)
        run.state, run.values = step(run.state, place(batch, sharding, stage.config.batch_size), given)
        jax.block_until_ready(before)  # at most two steps in flight
        run.step += 1
        run.clock.steps += 1
        bar.update(stage.config.tokens_per_step)
        stop = _act(run, run.events)
        if step._cache_size() != 1:
            raise RuntimeError(f"stage {stage.config.name}: the step was compiled {step._cache_size()} times, not once")
        if stop:
            return True
    return False


def _act(run: ActiveRun, events: Iterable[Event]) -> bool:
    """Lets those of `events` act that are due; returns whether one of them asked to stop, for which all is saved."""
    view = RunView(run)
    for event in events:
        if event.after_checkpoint and run.stop_requested:
            break  # it acts when the run goes on
        if not event.is_due(view):
            continue
        with run.clock.pause(run.state) if event.pauses_clock else contextlib.nullcontext():
            _apply(run, event, view)
    run.save_requested = False
    if run.stop_requested is None:
        return False
    run.log(f"{run.stop_requested}: saved at step {run.step}; start again with the same --workdir to go on")
    run.metrics.event("preempted", run.step)
    return True


def _apply(run: ActiveRun, event: Event, view: RunView) -> None:
    """Lets one event act and takes over what it changes."""
    if event.after_checkpoint:
        run.metrics.event("evaluation begins", run.step, entry=event.name)
    changed = event.act(view)
    if event.after_checkpoint and changed.weights is not None:
        raise JaxptError(f"event {event.name} is after the checkpoint, which would lack the weights that it returns")
    run.apply(changed)
    if changed.weights is not None:
        _read(run)  # what was read ahead had the weights from before
    if event.after_checkpoint:
        run.metrics.event("evaluation ends", run.step, entry=event.name)
