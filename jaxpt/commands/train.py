"""`jaxpt train`: joins config, data, model and loop, and runs them in a directory that can be resumed."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxpt import tokenizers
from jaxpt.config import RunConfig
from jaxpt.config_file import load
from jaxpt.dispatch import Parser
from jaxpt.errors import JaxptError
from jaxpt.measures import Measures
from jaxpt.sharding import join
from jaxpt.training import loop, run_directory
from jaxpt.training.checkpoints import finished_steps
from jaxpt.training.feed import make_feed
from jaxpt.training.interrupt import EXIT_PREEMPTED
from jaxpt.training.newest import while_pruned
from jaxpt.training.overview import overview
from jaxpt.training.plan import Plan, check_disk, make_plan
from jaxpt.training.sources import open_sources
from jaxpt.training.starting_point import StartingPoint, as_begun, open_start

HELP = "train a model: stages of a mixture, checkpoints, metrics; run again to resume"

EPILOG = f"""\
example:
  jaxpt train --config=configs/tiny.py --workdir=runs/a --config.optimizer.learning_rate=1e-3
  jaxpt train --config=configs/tiny.py --workdir=runs/a --config.stages[0].duration="2M tokens"

Any key of the config may be set with --config.key=value. Started again in the same workdir, the run goes on from its
newest whole checkpoint. Exit codes: 0 finished, {EXIT_PREEMPTED} saved after SIGTERM (start again), 1 an error.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, checks everything that can be checked, trains."""
    parser = Parser("jaxpt train", HELP, EPILOG)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="run directory, new or to be resumed")
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="several hosts: address of process 0, or auto (TPU pod, SLURM, …)"
    )
    parser.add_argument("--processes", type=int, help="several hosts: how many")
    parser.add_argument("--process_id", type=int, help="several hosts: which one this is")
    args, overrides = parser.parse_overrides(argv)
    if "://" in args.workdir:
        raise JaxptError(
            f"--workdir={args.workdir}: a run directory is a folder that all hosts see; mount the bucket (for instance "
            f"with gcsfuse) and give the folder"
        )
    config = load(RunConfig, args.config, overrides)
    join(args.coordinator, args.processes, args.process_id)
    return train(config, Path(args.workdir))


def train(config: RunConfig, workdir: Path, hooks: loop.Hooks | None = None) -> int:
    """Trains `config` in `workdir`; returns the exit code.

    Args:
        config: a checked config.
        workdir: new, or that of a run to go on with.
        hooks: evaluations of a stage's model; None: what `config.evaluation` names.

    Raises:
        JaxptError: a mistake in the config, the data or the directory; before step one where it can be known by then.
    """
    return while_pruned(lambda: _train(config, workdir, hooks))


def _train(config: RunConfig, workdir: Path, hooks: loop.Hooks | None) -> int:
    plan, start, tokenizer = open_plan(config, workdir)
    loop.make_program(plan)  # so that a mistake in mesh, optimizer or batch size is told before anything is written
    first = jax.process_index() == 0
    if first:
        for line in run_directory.prepare(workdir, config, plan.model, tokenizer, start.lineage if start else []):
            print(line)
        check_disk(workdir, plan.model, 2, config.checkpoint.keep)
    tell = print if first else (lambda line: None)
    tell(f"{plan.model.param_count():,} parameters, {plan.steps:,} steps, {config.tokens_at(plan.steps):,} tokens")
    if start:
        tell(f"starting from {start.found}")
    tell(overview(plan))
    feed = functools.partial(make_feed, used=start.ledger if start else [], tell=tell)
    measures = Measures(config, tokenizer, workdir)
    state = start.state if start else None
    return loop.train(plan, workdir, feed, state, hooks or measures.hooks, measures.policy, tell)


def open_plan(config: RunConfig, workdir: Path | None = None) -> tuple[Plan, StartingPoint | None, Any]:
    """Opens what the config names and checks it: the plan, where it starts from if it does, and the tokenizer.

    A run in `workdir` that has checkpoints goes on from where it began, whatever stands there now.
    """
    start = _start(config, workdir) if config.init_from else None
    tokenizer = _tokenizer(config, start.tokenizer_path if start else None)
    sources = open_sources(config, tokenizer)
    return make_plan(config, sources, start.model if start else None, tokenizer), start, tokenizer


def _start(config: RunConfig, workdir: Path | None) -> StartingPoint:
    damage = None
    if workdir is not None and finished_steps(workdir):
        try:
            return as_begun(workdir)
        except JaxptError as error:
            damage = error
    try:
        return open_start(config.init_from, config.stages[0].load)  # what it gives may restore what is damaged
    except JaxptError as error:
        raise damage or error from None


def _tokenizer(config: RunConfig, of_start: Path | None) -> Any:
    path = config.tokenizer or of_start
    if path is None:
        return None
    if not Path(path).exists():
        raise JaxptError(f"config.tokenizer={path}: it does not exist; give --config.tokenizer=PATH")
    return tokenizers.load(path)
