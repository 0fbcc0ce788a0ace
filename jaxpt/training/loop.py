"""The run: stages of steps, and between two steps what is due: records, checkpoints, evaluations; resumed anywhere."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.cli.stopping import Stopped
from jaxpt.cli.terminal import leave_out, progress
from jaxpt.errors import JaxptError
from jaxpt.models.batch import Batch
from jaxpt.models.params import Array
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.sharding import batch_sharding
from jaxpt.training.active_run import ActiveRun, Log
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import host_rows, place
from jaxpt.training.events import Event, RunView
from jaxpt.training.feed import Feed
from jaxpt.training.frozen import pin_frozen, with_frozen
from jaxpt.training.history import newest_saved
from jaxpt.training.interrupt import EXIT_PREEMPTED, Interrupt, Preemption
from jaxpt.training.kernels import with_kernels
from jaxpt.training.opening import open_run
from jaxpt.training.program import make_program
from jaxpt.training.recovering import Recovering, RollBack
from jaxpt.training.run_plan import RunPlan, StagePlan
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.saving import Saving
from jaxpt.training.sources import cache_folder
from jaxpt.training.speed import peak_flops
from jaxpt.training.stage_start import begin_stage
from jaxpt.training.state import Layout, State
from jaxpt.training.step import Step
from jaxpt.training.step_records import StepRecords
from jaxpt.training.targets import StepsWithoutTargets, count_targets
from jaxpt.training.watching import Watching


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
    interrupt: Interrupt | None = None,
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
        interrupt: the context that the caller is in; None: one of the run's own.

    Returns:
        0 when the run is finished, `EXIT_PREEMPTED` (75) when SIGTERM, Ctrl-C or an event asked to stop and all is
        saved.

    Raises:
        JaxptError: a full disk, no whole checkpoint beside those that were set aside, a checkpoint that cannot be read
            for another reason than damage, a value or a state that is not finite.
    """
    plan = with_frozen(plan, pin_frozen(plan.config.stages, newest_saved(workdir, from_step), plan.frozen))
    plan = with_kernels(plan, make_program(plan, devices).layout.mesh, cache_folder(plan.config), log)
    program = make_program(plan, devices)
    all_devices = program.layout.mesh.devices.flatten().tolist()
    peak = peak_flops(plan.config.metrics.peak_flops_per_device, all_devices)  # may measure, outside the mesh
    asking = contextlib.nullcontext(interrupt) if interrupt else Interrupt(workdir)
    with jax.set_mesh(program.layout.mesh), asking as interrupt:
        while True:
            run = open_run(plan, program, peak, workdir, make_feed, start, log, from_step, check_writer, interrupt)
            run.events = _in_order(run, events, interrupt)
            code = _closed_after(run)
            if code is not None:
                return code
            del run  # its state, before another is restored
            from_step = None


def _closed_after(run: ActiveRun) -> int | None:
    """Trains and closes the run; returns the exit code, None where a rollback was noted and it must be opened again."""
    code: int | None = None
    try:
        with contextlib.suppress(RollBack):
            code = _until_stopped(run)
        run.checkpoints.close()
    except BaseException:
        with contextlib.suppress(JaxptError):  # what came first is what a person must read
            run.metrics.close()
        raise
    run.metrics.close()
    return code


def _in_order(run: ActiveRun, events: Sequence[Event], interrupt: Interrupt) -> list[Event]:
    """Returns all that happens between two steps, in the order in which it happens."""
    followers = [event for event in events if event.after_checkpoint]
    records, saving = StepRecords(run), Saving(run, followers)
    return [
        *(event for event in events if not event.after_checkpoint),
        Recovering(run, [records, saving]),
        Watching(run),
        records,
        Preemption(interrupt),
        saving,
        *followers,
    ]


def _until_stopped(run: ActiveRun) -> int:
    """Trains; returns the exit code, also where a signal broke off what may be broken off."""
    try:
        return _train(run)
    except Stopped:
        run.stop_requested = run.interrupt.name
        _act(run, [event for event in run.events if isinstance(event, Saving)] if run.step else [])
        return EXIT_PREEMPTED


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
        _read(run, run.step)
        for stage in plan.stages[plan.stage_of(run.step) :]:
            if _train_stage(run, stage, bar):
                return EXIT_PREEMPTED
    return 0


def _read(run: ActiveRun, step: int) -> None:
    """Reads batches from `step` on, under the schedule log as it is now."""
    run.batches = run.feed.iterate(step, functools.partial(host_rows, run.program.layout.mesh))


def _train_stage(run: ActiveRun, stage: StagePlan, bar: tqdm) -> bool:
    """Runs one stage from where the run is; returns whether to stop."""
    program, config = run.program, run.plan.config
    run.state, arguments, lines = begin_stage(
        run.state,
        stage,
        program.layout,
        program.optimizer,
        config.seed,
        run.step,
        run.plan.frozen,
        Safeguards.of(config),
    )
    for line in lines:
        run.log(line)
    run.metrics.event("stage", run.step, stage=stage.config.name, batch_size=stage.config.batch_size)
    step, sharding = run.program.steps[stage.step], batch_sharding(run.program.layout.mesh)
    if not step._cache_size():
        run.clock.cold()
    without_targets = StepsWithoutTargets()
    while run.step < stage.stop:
        if run.passes_over(run.step):
            _pass_over(run)
        else:
            batch = _next_batch(run)
            placed = place(batch, sharding, stage.config.batch_size)
            targets = count_targets(batch, placed)
            if targets:
                _step(run, stage, step, placed, arguments(run.step))
            else:
                run.values = {}
                without_targets.report(run, run.step + 1)
            run.values = {**run.values, "train/targets": targets}
            run.clock.steps += 1
        run.step += 1
        bar.update(stage.config.tokens_per_step)
        stop = _act(run, run.events)
        if step._cache_size() > 1:
            raise RuntimeError(f"stage {stage.config.name}: the step was compiled {step._cache_size()} times, not once")
        if stop:
            return True
    return False


def _next_batch(run: ActiveRun) -> Batch[np.ndarray]:
    """Waits for this host's rows of the next step."""
    with run.clock.wait(), run.interrupt.abandoning():
        number, batch = next(run.batches)
    if number != run.step:
        raise RuntimeError(f"the feed gave batch {number} for step {run.step}")
    return batch


def _pass_over(run: ActiveRun) -> None:
    """Lets a step go by after a rollback: its rows count as used, and are not even read."""
    run.values = {"train/targets": 0}
    if not run.passes_over(run.step + 1):
        _read(run, run.step + 1)


def _step(
    run: ActiveRun, stage: StagePlan, step: Step, batch: Batch[jax.Array], given: StepArguments[np.generic, Array]
) -> None:
    """Takes one step; the first of its kind is compiled and waited for, and says so."""
    before, begun = run.values, time.perf_counter()
    if step._cache_size():
        run.state, run.values = step(run.state, batch, given)
        jax.block_until_ready(before)  # at most two steps in flight
        return
    run.log(f"stage {stage.config.name}: compiling the train step …")
    run.state, run.values = step(run.state, batch, given)
    jax.block_until_ready(run.values)
    seconds = time.perf_counter() - begun
    run.log(f"stage {stage.config.name}: compiled, and the first step taken, in {seconds:.1f} s")
    if run.progress is not None:
        leave_out(run.progress, stage.config.tokens_per_step, seconds)


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
    saved = f"saved at step {run.step}" if run.step else "stopped before the first step"
    run.log(f"{run.stop_requested}: {saved}; {run.interrupt.go_on}")
    run.metrics.event("preempted", run.step)
    return True


def _apply(run: ActiveRun, event: Event, view: RunView) -> None:
    """Lets one event act and takes over what it changes."""
    begun = time.perf_counter()
    if event.after_checkpoint:
        run.metrics.event("evaluation begins", run.step, entry=event.name)
        run.log(f"step {run.step}: evaluating {event.name} …")
    with run.interrupt.abandoning() if event.after_checkpoint else contextlib.nullcontext():  # the step is on disk
        changed = event.act(view)
    if event.after_checkpoint and changed.weights is not None:
        raise JaxptError(f"event {event.name} is after the checkpoint, which would lack the weights that it returns")
    if changed.failed is not None:
        run.metrics.event("evaluation failed", run.step, entry=event.name, reason=changed.failed)
        run.log(f"step {run.step}: {event.name} failed ({changed.failed}); the run goes on")
        return
    run.apply(changed)
    if changed.weights is not None:
        _read(run, run.step)  # what was read ahead had the weights from before
    if event.after_checkpoint:
        run.metrics.event("evaluation ends", run.step, entry=event.name)
        values = ", ".join(f"{name} {value:.4g}" for name, value in changed.values.items())
        run.log(f"step {run.step}: {values or event.name} ({time.perf_counter() - begun:.1f} s)")
