"""`jaxpt train`: joins config, data, model and loop, and runs them in a directory that can be resumed."""

import functools
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from jaxpt import api, tokenizers
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.checkpoints.newest import while_pruned
from jaxpt.checkpoints.restoring import check_step
from jaxpt.checkpoints.run_files import has_tokenizer
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.stopping import EXIT_PREEMPTED, Stopped, write_line
from jaxpt.cli.terminal import say
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent_model
from jaxpt.files.lock import Lock, inside
from jaxpt.models.size import param_count
from jaxpt.sharding import check_join, join, on_first_process
from jaxpt.sharding.supervisor import supervised
from jaxpt.sharding.watch import Watch
from jaxpt.tokenizers import Tokenizer
from jaxpt.training import loop, run_directory
from jaxpt.training.branching import copy_checkpoint, open_branch, starting_point
from jaxpt.training.config import RunConfig
from jaxpt.training.evaluating import begin_marks, evaluations
from jaxpt.training.events import Event
from jaxpt.training.extra import make_extra
from jaxpt.training.feed import Feeds
from jaxpt.training.frozen import ancestor, beside_frozen, parent, pin_frozen, with_frozen
from jaxpt.training.history import newest_saved, read_legs
from jaxpt.training.interrupt import SAME, Interrupt, way_on
from jaxpt.training.overview import overview
from jaxpt.training.program import make_program
from jaxpt.training.reweighting import Reweighting
from jaxpt.training.run_plan import RunPlan, check_disk, continued, make_plan
from jaxpt.training.runtime import prepare_process
from jaxpt.training.sources import open_sources
from jaxpt.training.starting_point import StartingPoint, as_begun, open_start, same_everywhere
from jaxpt.training.until import Until

HELP = "train a model: stages of a mixture, checkpoints, metrics; run again to resume"

EPILOG = f"""\
example:
  jaxpt train --config=configs/tiny.py:PACKED_SOURCE --workdir=runs/a --config.optimizer.learning_rate=1e-3
  jaxpt train --config=configs/tiny.py:PACKED_SOURCE --workdir=runs/b --config.stages[0].duration="8k tokens"
  jaxpt train --config=run.py --workdir=runs/cooldown --config.branch_from=runs/c@4 \\
      --config.stages[0].schedule.name=linear --config.stages[0].duration="3 steps"

Any key of the config may be set with --config.key=value. Started again in the same workdir, the run goes on from its
newest whole checkpoint; --from_step=N goes back to an earlier one, for instance with a lower learning rate after the
loss rose (values that are not finite are never saved); --until_step=N stops after step N of the plan. SIGTERM and
Ctrl-C save and stop, a second one ends the run at once. Exit codes: 0 finished (or at step N), {EXIT_PREEMPTED} start
again (saved after a signal, or a process was lost), 1 an error.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, checks everything that can be checked, trains."""
    parser = Parser("jaxpt train", HELP, EPILOG, lambda: RunConfig)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="run directory, new or to be resumed")
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="several hosts: address of process 0, or auto (TPU pod, SLURM, …)"
    )
    parser.add_argument("--processes", type=int, help="several hosts: how many")
    parser.add_argument("--process_id", type=int, help="several hosts: which one this is")
    parser.add_argument(
        "--from_step",
        type=int,
        metavar="N",
        help="go on from checkpoint N of the workdir; later ones are set aside as STEP.set-aside, not removed",
    )
    parser.add_argument(
        "--until_step", type=int, metavar="N", help="save and stop after step N, and go on another time"
    )
    parser.add_argument("--take_over", action="store_true", help="the run's writer on another machine is gone for good")
    args, overrides = parser.parse_overrides(argv)
    if "://" in args.workdir:
        raise JaxptError(
            f"--workdir={args.workdir}: a run directory is a folder that all hosts see; mount the bucket (for instance "
            f"with gcsfuse) and give the folder"
        )
    config, workdir = load(RunConfig, args.config, overrides), Path(args.workdir)
    check_join(args.coordinator, args.processes, args.process_id)
    command = shlex.join(["jaxpt", "train", *argv])
    for line in prepare_process(config):  # before the first device is asked for
        if not args.process_id:
            print(line)

    until = [] if args.until_step is None else [Until(args.until_step)]

    def alone() -> int:
        if until and (step := newest_step(workdir)) >= args.until_step and args.from_step is None:
            print(f"{workdir} is at step {step}, --until_step={args.until_step}: nothing to do")
            return 0
        code = train(config, workdir, until, args.from_step, args.take_over, go_on=f"go on with {command}")
        return 0 if until and code == EXIT_PREEMPTED and newest_step(workdir) >= args.until_step else code

    def of_several(watch: Watch) -> int:
        join(args.coordinator, args.processes, args.process_id, silence=2 * limit + 60)
        watch.begin()
        return alone()

    try:
        if args.coordinator is None:
            return alone()
        limit, go_on = config.sharding.lost_after, f"start all processes again, this one with {command}"
        return supervised(of_several, limit, "jaxpt train", lambda: way_on(workdir, go_on))
    except Stopped as signal:
        write_line(f"jaxpt train: {signal}: stopped before the first step; {way_on(workdir, f'go on with {command}')}")
        return EXIT_PREEMPTED


def newest_step(workdir: Path) -> int:
    """Returns the step of a run's newest checkpoint, 0 where there is none."""
    return max(finished_steps(workdir), default=0)


def train(
    config: RunConfig,
    workdir: Path,
    events: Sequence[Event] = (),
    from_step: int | None = None,
    take_over: bool = False,
    go_on: str = SAME,
) -> int:
    """Trains `config` in `workdir`; returns the exit code.

    Args:
        config: a checked config.
        workdir: new, or that of a run to go on with.
        events: what happens between two steps besides what the config names: see `jaxpt.training.events`.
        from_step: the checkpoint to go on from; None: the newest whole one.
        take_over: a writer on another machine, whose lock this run finds, is gone for good.
        go_on: how to go on with the run once it was stopped, for messages.

    Raises:
        JaxptError: a mistake in the config, the data or the directory; before step one where it can be known by then.
        Stopped: SIGTERM or Ctrl-C, a KeyboardInterrupt, while the run was opened.
    """
    if from_step is not None:
        check_step(workdir / "checkpoints", finished_steps(workdir), from_step)
    with Interrupt(workdir, go_on) as interrupt:
        return while_pruned(lambda: _train(config, workdir, events, from_step, take_over, interrupt))


def _train(
    config: RunConfig,
    workdir: Path,
    events: Sequence[Event],
    from_step: int | None,
    take_over: bool,
    interrupt: Interrupt,
) -> int:
    log = say if jax.process_index() == 0 else (lambda line: None)
    with interrupt.abandoning():
        saved = newest_saved(workdir, from_step)
        branch = open_branch(config) if config.branch_from and not finished_steps(workdir) else None
        saved = branch.run if branch else saved
        plan, start, tokenizer = open_plan(config, workdir, saved)
        # made here already, so that a mistake in mesh, optimizer or batch size is an error before anything is written
        optimizer = make_program(plan).optimizer
        feeds = Feeds(start.ledger if start else [], log)
        if saved or not finished_steps(workdir):
            feeds.check(continued(plan, saved) if saved else plan, saved)
        measuring = evaluations(config, tokenizer)
    lock = Lock(inside(workdir), workdir)

    def open_workdir() -> None:
        lock.acquire(take_over)
        for line in run_directory.prepare(workdir, config, plan.model, tokenizer, start.lineage if start else []):
            print(line)
        if branch and not finished_steps(workdir):
            copy_checkpoint(branch, workdir)
        begin_marks(config, workdir)

    extra = max(make_extra(stage.config.objective, stage.model).nbytes for stage in plan.stages)
    extra += 4 * param_count(plan.model) if config.averaging.keeps else 0
    on_first_process(lambda: check_disk(workdir, plan.model, optimizer, config.checkpoint.keep, extra))
    with lock:
        on_first_process(open_workdir)
        _introduce(plan, start)
        reweighting = Reweighting(config, tokenizer, workdir, functools.partial(api.load, dtype="float32"))
        return loop.train(
            plan,
            workdir,
            feeds,
            start.state if start and not config.branch_from else None,
            [reweighting, *events, *measuring],
            log,
            from_step=from_step,
            check_writer=lock.check,
            interrupt=interrupt,
        )


def _introduce(plan: RunPlan, start: StartingPoint | None) -> None:
    """Prints what is about to be trained, on one host."""
    if jax.process_index():
        return
    print(f"{param_count(plan.model):,} parameters, {plan.steps:,} steps, {plan.tokens_at(plan.steps):,} tokens")
    if start:
        print(f"starting from {start.description}")
    print(overview(plan))


def open_plan(
    config: RunConfig, workdir: Path | None = None, saved: RunItem | None = None
) -> tuple[RunPlan, StartingPoint | None, Tokenizer | None]:
    """Opens what the config names and checks it: the plan, where it starts from if it does, and the tokenizer.

    The tokenizer is that of `config.tokenizer`, else of `init_from`, else the one that a packed source carries. A run
    in `workdir` that has checkpoints goes on from where it began, whatever is there now; `saved` is the `run` item of
    the checkpoint that it goes on from.
    """
    past = read_legs(saved, config.stages) if saved else ()
    if config.branch_from and workdir is not None and finished_steps(workdir):
        start: StartingPoint | None = as_begun(workdir)
    elif config.branch_from:
        branch = open_branch(config)
        start, saved = starting_point(branch), branch.run
        past = read_legs(saved, config.stages)
    else:
        start = _start(config, workdir) if config.init_from else None
    sources, tokenizer = open_sources(config, _tokenizer(config, start.tokenizer_path if start else None))
    if tokenizer is None and workdir is not None and finished_steps(workdir) and has_tokenizer(workdir):
        tokenizer = tokenizers.load(workdir / "tokenizer")  # of a source that has lost it since
    planned = functools.partial(
        make_plan,
        sources=sources,
        model=start.model if start else None,
        tokenizer=tokenizer,
        past=past,
        saved=saved,
    )
    plan = planned(config)
    lineage = start.lineage if start else []
    known = {**ancestor(lineage), **parent(start, config.init_from)}
    pins = pin_frozen(config.stages, saved, known, tokenizer)
    stages = beside_frozen(config.stages, plan.model, pins, lineage)
    if stages != tuple(config.stages):
        plan = planned(replace(config, stages=stages))
    return with_frozen(plan, pins), start, tokenizer


def _start(config: RunConfig, workdir: Path | None) -> StartingPoint:
    damage = None
    assert config.init_from is not None
    if workdir is not None and finished_steps(workdir):
        try:
            return as_begun(workdir)
        except JaxptError as error:
            damage = error
    try:
        path = same_everywhere(config.init_from)
        return open_start(path, config.stages[0].load)  # what it gives may restore what is damaged
    except JaxptError as error:
        raise damage or error from None


def _tokenizer(config: RunConfig, of_start: Path | None) -> Tokenizer | None:
    path = config.tokenizer or of_start
    if path is None:
        return None
    if not Path(path).exists():
        raise JaxptError(f"config.tokenizer={path} {absent_model(path)}; give --config.tokenizer=PATH")
    return tokenizers.load(path)
