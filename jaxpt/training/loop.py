"""The run: stages of steps with metrics, checkpoints and evaluations between them; resumed where it stopped."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpt.checkpoints.checkpoints import Checkpoints, Retention
from jaxpt.cli.terminal import progress
from jaxpt.config.schema import plain
from jaxpt.errors import JaxptError
from jaxpt.models.batch import Batch
from jaxpt.models.config import ModelConfig
from jaxpt.models.init import init_params
from jaxpt.models.size import flops_per_token
from jaxpt.models.specs import param_specs
from jaxpt.optim.optimizers import Optimizer, make_optimizer
from jaxpt.sharding import batch_sharding
from jaxpt.training.batches import host_rows, place
from jaxpt.training.changes import changes
from jaxpt.training.config import RunConfig, StageConfig, interval
from jaxpt.training.feed import Feed
from jaxpt.training.frozen import open_frozen
from jaxpt.training.interrupt import EXIT_PREEMPTED, Interrupt
from jaxpt.training.metrics import Metrics
from jaxpt.training.plan import Plan, StagePlan, continued
from jaxpt.training.speed import Clock, convention, peak_flops
from jaxpt.training.stage_start import begin_stage
from jaxpt.training.state import Layout, State, abstract_state, make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

Hook = Callable[[int, Any], Mapping[str, float]]  # (finished steps, params) -> {"eval/bpb/code": …}
Hooks = Callable[[ModelConfig, StageConfig, Mesh], Sequence[Hook]]  # of a stage -> what to measure in it
# (finished steps, params, weights in force) -> (weights from now on, what to log); of a stage, None: weights stay
Policy = Callable[[int, Any, Mapping[str, float]], tuple[Mapping[str, float], Mapping[str, float]]]
Policies = Callable[[ModelConfig, StageConfig, Mesh], Policy | None]
Tell = Callable[[str], None]


@dataclass
class Run:
    """A run in progress: what the loop's parts share."""

    plan: Plan
    layout: Layout
    optimizer: Optimizer
    feed: Feed
    checkpoints: Checkpoints
    metrics: Metrics
    hooks: Hooks
    policies: Policies
    tell: Tell
    state: State
    step: int  # finished steps
    peak: float  # FLOP/s of all devices
    steps: Mapping[StepSpec, Callable]
    check_writer: Callable[[], None] = lambda: None
    clock: Clock = field(default_factory=Clock)
    measures: dict[str, Sequence[Hook]] = field(default_factory=dict)
    batches: Iterator[tuple[int, Batch]] = field(default_factory=lambda: iter(()))

    @property
    def config(self) -> Any:
        """The run's config."""
        return self.plan.config

    @property
    def done(self) -> bool:
        """Whether all stages are finished."""
        return self.step >= self.plan.steps


def train(
    plan: Plan,
    workdir: Path,
    make_feed: Callable[[Plan, dict[str, Any] | None], Feed],
    start: Callable[[Layout, Optimizer], State] | None = None,
    hooks: Hooks = lambda model, stage, mesh: (),
    policies: Policies = lambda model, stage, mesh: None,
    tell: Tell = print,
    devices: Sequence[Any] | None = None,
    from_step: int | None = None,
    check_writer: Callable[[], None] = lambda: None,
) -> int:
    """Trains `plan` in `workdir`, from its newest whole checkpoint if there is one.

    Args:
        plan: a checked run.
        workdir: the run directory, prepared by `run_directory.prepare`.
        make_feed: builds the feed from the plan and the `run` item of the restored checkpoint (None: a new run).
        start: makes the first state where parameters come from elsewhere; None: drawn from the seed.
        hooks: evaluations of a stage; asked once per stage.
        policies: what changes the weights of a stage's mixture on the way; asked once per stage.
        tell: receives lines for the person watching.
        devices: default all devices of all hosts.
        from_step: go on from this checkpoint and set later ones aside; None: from the newest.
        check_writer: raises where another process has taken over the directory; called before each write.

    Returns:
        0 when the run is finished, `EXIT_PREEMPTED` (75) when SIGTERM asked to stop and all is saved.

    Raises:
        JaxptError: a full disk, no whole checkpoint beside those that were set aside, a checkpoint that cannot be read
            for another reason than damage, a value or a state that is not finite.
    """
    config = plan.config
    layout, optimizer, steps = make_program(plan, devices)
    peak, source = peak_flops(config.metrics.peak_flops_per_device, layout.mesh.devices.flatten().tolist())
    with jax.set_mesh(layout.mesh), Interrupt() as interrupt:
        checkpoints = Checkpoints(workdir, _retention(plan), asynchronous=config.checkpoint.asynchronous)
        items = abstract_state(plan.model, optimizer, layout).to_items()
        restored = checkpoints.restore(items, tell, from_step, plain(config))
        saved, step = (restored.run, restored.run["step"]) if restored else (None, 0)
        if saved:
            plan = continued(plan, saved)
            checkpoints.retention = _retention(plan)
        feed = make_feed(plan, saved)  # before anything is set aside or cut back: it may refuse the config
        set_aside = checkpoints.go_back(restored, tell) if restored else []
        metrics = _open_metrics(workdir, config, layout, step if saved else None, set_aside)
        state = State(**restored.state) if restored else (start or _draw(plan))(layout, optimizer)
        tell(f"MFU: {convention()}; {source}")
        if saved:
            for line in (f"resumed at step {step} of {plan.steps}", *changes(plan, saved)):
                tell(line)
        parts = (plan, layout, optimizer, feed, checkpoints, metrics, hooks, policies, tell, state, step, peak, steps)
        run = Run(*parts, check_writer)
        try:
            code = _stages(run, interrupt)
            checkpoints.close()
        finally:
            metrics.close()
        return code


def _open_metrics(workdir: Path, config: RunConfig, layout: Layout, resumed: int | None, aside: list[str]) -> Metrics:
    """Opens the metrics, cut back to the step that was resumed at, and notes how the run goes on."""
    step = resumed or 0
    metrics = Metrics(workdir, step, tensorboard=config.metrics.tensorboard, write=jax.process_index() == 0)
    kind = "start" if resumed is None else "resume"
    metrics.event(kind, step, devices=jax.device_count(), mesh=dict(layout.mesh.shape))
    if aside:
        metrics.event("set aside", step, checkpoints=aside)
    return metrics


def make_program(
    plan: Plan, devices: Sequence[Any] | None = None
) -> tuple[Layout, Optimizer, dict[StepSpec, Callable]]:
    """Lays the model out on the mesh and makes the optimizer and every stage's step, none of them compiled yet.

    Raises:
        JaxptError: a mesh that does not fit the devices or the model, an unknown optimizer or objective, rows that do
            not divide, a name in `freeze` that the model lacks.
    """
    layout = make_layout(plan.model, plan.config.sharding, devices)
    optimizer = make_optimizer(plan.config.optimizer, param_specs(plan.model))
    steps: dict[StepSpec, Callable] = {}
    for i, stage in enumerate(plan.stages):
        if stage.step not in steps:
            where = f"config.stages[{i}]"
            frozen = {n: m.model for n, m in open_frozen(stage.config.objective, f"{where}.objective").items()}
            steps[stage.step] = make_step(stage.step, optimizer, layout, where, frozen)
    return layout, optimizer, steps


def _draw(plan: Plan) -> Callable[[Layout, Optimizer], State]:
    def start(layout: Layout, optimizer: Optimizer) -> State:
        return new_state(layout, optimizer, init_params(plan.model, plan.config.seed, layout.params))

    return start


def _stages(run: Run, interrupt: Interrupt) -> int:
    """Runs what is left of every stage; returns the exit code."""
    config, plan = run.config, run.plan
    if run.step == 0 and config.evaluation.before:
        _evaluate(run, plan.stages[0])
    elif run.step and _evaluation_due(run, run.step):
        _evaluate(run, plan.stages[plan.stage_of(run.step - 1)])
    total, done = plan.tokens_at(plan.steps), plan.tokens_at(run.step)
    quiet = jax.process_index() != 0
    with progress(total, "train", "tok", start=done, scale=True) as bar:
        bar.disable = quiet
        if run.done:
            return 0
        _read(run)
        for stage in plan.stages[plan.stage_of(run.step) :]:
            if _stage(run, stage, interrupt, bar):
                return EXIT_PREEMPTED
    return 0


def _read(run: Run) -> None:
    """Reads batches from the step at hand on, under the schedule log as it is now."""
    run.batches = run.feed.iterate(run.step, functools.partial(host_rows, run.layout.mesh))


def _stage(run: Run, stage: StagePlan, interrupt: Interrupt, bar: Any) -> bool:
    """Runs one stage from where the run stands; returns whether it was interrupted."""
    parts = run.state, stage, run.layout, run.optimizer, run.config.seed, run.step
    run.state, arguments, lines = begin_stage(*parts)
    for line in lines:
        run.tell(line)
    run.metrics.event("stage", run.step, stage=stage.config.name)
    policy = run.policies(stage.model, stage.config, run.layout.mesh) if stage.config.reweight.every else None
    step = run.steps[stage.step]
    if not step._cache_size():
        run.clock.cold()
    sharding = batch_sharding(run.layout.mesh)
    before: Any = None
    while run.step < stage.stop:
        with run.clock.wait():
            number, batch = next(run.batches)
        if number != run.step:
            raise RuntimeError(f"the feed gave batch {number} for step {run.step}")
        given = arguments(run.step)
        run.state, values = step(run.state, place(batch, sharding, stage.config.batch_size), given)
        if before is not None:
            before.block_until_ready()  # at most two steps in flight
        before = values["train/loss"]
        run.step += 1
        run.clock.steps += 1
        bar.update(stage.config.tokens_per_step)
        if policy and run.step < stage.stop and _passed(run, stage.config.reweight.every, run.step):
            _reweight(run, policy)
        stop = _between(run, stage, values, stage.rate(run.step - 1), interrupt, bar)
        if step._cache_size() != 1:
            raise RuntimeError(f"stage {stage.config.name}: the step was compiled {step._cache_size()} times, not once")
        if stop:
            return True
    return False


def _reweight(run: Run, policy: Policy) -> None:
    """Lets the policy's weights hold from the next batch on; the checkpoint of this step, if any, has them."""
    with run.clock.pause(run.state):
        weights, facts = policy(run.step, run.state.params, run.feed.weights(run.step))
        run.feed.change(run.step, weights)
        run.metrics.log(run.step, {"tokens": run.plan.tokens_at(run.step), **facts})
        _read(run)  # what was read ahead had the weights from before


def _between(run: Run, stage: StagePlan, values: Any, rate: float, interrupt: Interrupt, bar: Any) -> bool:
    """After a step: log, save, evaluate as due; returns whether to stop here."""
    log_due = run.step % run.config.metrics.every == 0 or run.step == stage.stop
    if log_due:
        _log(run, stage, jax.device_get(values), rate, bar)
    asked = interrupt.agreed() if jax.process_count() == 1 or log_due else False
    evaluate = _evaluation_due(run, run.step)
    if asked or evaluate or _save_due(run, run.step):
        if not log_due:
            _check_finite(run, jax.device_get({k: v for k, v in values.items() if "/" in k}))
        _save(run, wait=asked or evaluate)
    if asked:
        run.tell(f"SIGTERM: saved at step {run.step}; start again with the same --workdir to go on")
        run.metrics.event("preempted", run.step)
        return True
    if evaluate:
        _evaluate(run, stage)
    return False


def _log(run: Run, stage: StagePlan, values: Mapping[str, Any], rate: float, bar: Any) -> None:
    """Writes one record: the step's loss and norms, the mixture, the speed since the last record."""
    run.check_writer()
    loss = float(values["train/loss"])
    record: dict[str, Any] = {"stage": stage.config.name, "tokens": run.plan.tokens_at(run.step)}
    record |= {k: float(v) for k, v in values.items() if "/" in k}
    for name, nll, weight in zip(run.plan.source_names, *(values.get(k, ()) for k in ("source_nll", "source_weight"))):
        if weight > 0:
            record[f"train/loss/{name}"] = float(nll / weight)
    record |= run.feed.metrics(run.step)
    record["optim/learning_rate"] = rate
    flops = flops_per_token(stage.model, stage.config.sequence_length)
    record |= run.clock.lap(stage.config.tokens_per_step, flops, run.peak)
    run.metrics.log(run.step, record)
    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    again = run.metrics.replayed(run.step, record)
    if again is not None:
        same = repr(again[0]) == repr(again[1])  # also where both are NaN
        run.metrics.event("replayed", run.step, loss=again[0], before=again[1], identical=same)
        told = "as before" if same else f"{again[1]!r} before: another mesh or machine, or damaged data"
        run.tell(f"replayed step {run.step}: loss {again[0]!r}, {told}")
    _check_finite(run, {k: v for k, v in record.items() if not k.startswith("perf/")})


def _check_finite(run: Run, values: Mapping[str, Any]) -> None:
    """Stops where a value of the step at hand is NaN or infinite: what follows from it would be lost time."""
    for name, value in values.items():
        if not isinstance(value, str) and not np.all(np.isfinite(value)):
            what = "the loss" if name == "train/loss" else name
            raise JaxptError(f"{what} at step {run.step} is {value}; {run.checkpoints.way_back()}")


def _save(run: Run, *, wait: bool) -> None:
    run.check_writer()
    with run.clock.pause(run.state):
        if run.step not in run.checkpoints.steps():
            run.metrics.event("save", run.step)
            model = run.plan.stages[run.plan.stage_of(run.step - 1)].model.to_dict()  # with the stage's rope
            saved = {"model": model, **run.plan.to_save(run.step), **run.feed.to_save(run.step)}
            run.checkpoints.save(run.step, run.state.to_items(), saved)
        if wait:
            run.checkpoints.wait()


def _evaluate(run: Run, stage: StagePlan) -> None:
    """Runs the hooks and logs what they return, unless the record of an earlier attempt stands."""
    if stage.config.name not in run.measures:
        run.measures[stage.config.name] = run.hooks(stage.model, stage.config, run.layout.mesh)
    hooks = run.measures[stage.config.name]
    if not hooks or run.metrics.has(run.step, "eval/"):
        return
    with run.clock.pause(run.state):
        run.metrics.event("evaluation begins", run.step)
        record: dict[str, float] = {}
        for hook in hooks:
            record |= hook(run.step, run.state.params)
        for name in (k for k, v in record.items() if not np.isfinite(v)):
            run.tell(f"{name} at step {run.step} is {record[name]}")
        run.check_writer()
        run.metrics.log(run.step, {"tokens": run.plan.tokens_at(run.step), **record})
        run.metrics.event("evaluation ends", run.step)


def _passed(run: Run, text: str | None, step: int) -> bool:
    every = interval(text, "every")
    tokens = run.plan.tokens_at
    return every is not None and every.passed(step - 1, step, tokens(step - 1), tokens(step))


def _save_due(run: Run, step: int) -> bool:
    return step in {s.stop for s in run.plan.stages} or _passed(run, run.config.checkpoint.every, step)


def _evaluation_due(run: Run, step: int) -> bool:
    last = step == run.plan.steps and run.config.evaluation.after
    return last or _passed(run, run.config.evaluation.every, step)


def _retention(plan: Plan) -> Retention:
    config = plan.config
    every = interval(config.checkpoint.keep_every, "config.checkpoint.keep_every")

    def kept(step: int) -> bool:
        return every is not None and every.passed(step - 1, step, plan.tokens_at(step - 1), plan.tokens_at(step))

    return Retention(config.checkpoint.keep, frozenset(s.stop for s in plan.stages), kept)
