"""From flags and points to results: everything is checked, then run, then shown."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxpt.cli.stopping import EXIT_PREEMPTED, Requests, write_line
from jaxpt.cli.terminal import progress, say, table
from jaxpt.config.duration import parse
from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.evaluation import prefix
from jaxpt.files.lock import Lock, inside
from jaxpt.sweeps.halving import rungs
from jaxpt.sweeps.points import SweepPoint, planned_tokens
from jaxpt.sweeps.results import PointResult, read_results
from jaxpt.sweeps.runners import LocalRunner, RayRunner, Runner
from jaxpt.sweeps.summary import costs, flops_per_s, ranking, write_sweep_page
from jaxpt.sweeps.sweep import RESULTS, PointCost, SweepRun, cost_of, named, prepare
from jaxpt.training.config import RunConfig
from jaxpt.training.feed import make_feed
from jaxpt.training.run_plan import RunPlan
from jaxpt.training.starting_point import StartingPoint

OpenPlan = Callable[[RunConfig], tuple[RunPlan, StartingPoint | None, Any]]  # as `jaxpt train` opens it


@dataclass(frozen=True)
class SweepDone:
    """A sweep that was run: what it is, its results, best first, and the keys in which points differ."""

    recipe: str
    metric: str
    results: list[PointResult]
    keys: list[str]


def run_points(
    args: argparse.Namespace, recipe: str, points: Sequence[SweepPoint], metric: str, open_plan: OpenPlan
) -> SweepDone | int:
    """Checks and runs points; returns what came of them, or an exit code where there is nothing to report.

    Args:
        args: of `add_arguments`.
        recipe: what the folder is to hold: sweep, probe or mix.
        points: without names.
        metric: what is compared where `args` says nothing.
        open_plan: opens and checks a point's plan.
    """
    workdir, metric = Path(args.workdir), args.metric or metric
    if ":" in args.workdir:
        raise JaxptError(f"--workdir={args.workdir}: a folder without a colon, please; the points' configs lie in it")
    runner = runner_of(args)
    check_metric(metric, points)
    budget = planned_tokens(points[0].config)
    least = None if args.first_rung is None else tokens_given("--first_rung", args.first_rung)
    levels = rungs(len(points), budget, args.halving, least)
    keys = list(points[0].values)
    facts: dict[str, Any] = {"recipe": recipe, "metric": metric, "tokens": budget, "keys": keys}
    points = named(workdir, points, facts)
    of = _costs(points, partial(cost_of, rungs=levels), open_plan)
    print(costs(points, of, levels, flops_per_s(read_results(workdir / RESULTS))))
    if args.dry_run:
        return 0
    sweep = SweepRun(workdir, points, of, levels, metric, say)
    with Lock(inside(workdir), workdir) as lock, _Asked(recipe) as asked:
        lock.acquire()
        prepare(workdir, points, facts)
        whole = sweep.run(runner, lambda: bool(asked.name))
    if not whole:
        print(f"{asked.name}: the points that ran are saved; start again with the same --workdir to go on")
        return EXIT_PREEMPTED
    return SweepDone(recipe, metric, sweep.newest(), keys)


def report(args: argparse.Namespace, done: SweepDone) -> int:
    """Prints the table, writes the page; returns the exit code."""
    print(table(*ranking(done.results, done.keys, done.metric)))
    print(write_sweep_page(Path(args.workdir), done.results, done.keys, done.metric))
    failed = [r for r in done.results if r.state == "failed"]
    if failed:
        names = ", ".join(f"{r.point} ({r.error})" for r in failed[:3]) + (" …" if failed[3:] else "")
        print(
            f"jaxpt {done.recipe}: {len(failed)} of {len(done.results)} points failed: {names}; see "
            f"{args.workdir}/points/POINT.log, and start again to try them once more",
            file=sys.stderr,
        )
    return 1 if failed else 0


def tokens_of(args: argparse.Namespace) -> int | None:
    """Returns the budget that `--tokens` gives."""
    return None if args.tokens is None else tokens_given("--tokens", args.tokens)


def tokens_given(flag: str, text: str) -> int:
    """Reads a number of tokens, with or without the word.

    Raises:
        JaxptError: something else.
    """
    duration = parse(text if not text.strip()[-1:].isdigit() else f"{text} tokens", flag)
    if duration.unit != "tokens" or duration.amount < 1:
        raise JaxptError(f'{flag}={text!r}: give tokens, as "10B tokens"')
    return int(duration.amount)


def runner_of(args: argparse.Namespace) -> Runner:
    """Returns who runs the points.

    Raises:
        JaxptError: flags that do not go together, or have another form.
    """
    if args.ray is not None:
        if args.devices:
            raise JaxptError("--devices are those of this machine; with --ray give --resources=GPU=1")
        return RayRunner(args.ray or None, _resources(args.resources))
    if not args.devices:
        return LocalRunner()
    names = [name.strip() for name in args.devices.split(",")]
    size = args.devices_per_point
    if "" in names or len(set(names)) < len(names):
        raise JaxptError(f"--devices={args.devices}: give each device once, as 0,1,2,3")
    if size < 1 or len(names) % size:
        raise JaxptError(f"--devices_per_point={size}: the {len(names)} of --devices do not divide by that")
    return LocalRunner(tuple(tuple(names[i : i + size]) for i in range(0, len(names), size)))


def check_metric(metric: str, points: Sequence[SweepPoint]) -> None:
    """Raises a JaxptError where an evaluation's metric is compared that the config does not measure at the end."""
    config = points[0].config
    entries = {prefix(name): entry for name, entry in config.evaluations.items() if entry.after}
    if metric.startswith("eval/") and not any(metric.startswith(known) for known in entries):
        have = f"; it measures {', '.join(f'{p}*' for p in entries)}" if entries else "; it has no evaluations"
        raise JaxptError(
            f"--metric={metric}: the config measures no such thing at its end{nearest(metric, entries)}{have}"
        )


def _resources(text: str) -> dict[str, float]:
    out = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            out[name.strip()] = float(number)
        except ValueError:
            raise JaxptError(f"--resources={text}: give NAME=NUMBER, as CPU=8,GPU=1") from None
    return out


def _costs(
    points: Sequence[SweepPoint], cost: Callable[[RunPlan], PointCost], open_plan: OpenPlan
) -> dict[str, PointCost]:
    """Opens each point's plan as `jaxpt train` does, so that a mistake is known, and data counted, before any runs."""
    out = {}
    with progress(len(points), "checking", "point", quiet=len(points) < 8) as bar:
        for point in points:
            try:
                plan, start, _ = open_plan(point.config)
                make_feed(plan, None, start.ledger if start else [], log=lambda line: None)
            except JaxptError as error:
                raise JaxptError(f"point {point.label}: {error}") from error
            out[point.name] = cost(plan)
            bar.update()
    return out


class _Asked(Requests):
    """SIGTERM and Ctrl-C ask the points to save and stop; a second one ends all at once."""

    def __init__(self, recipe: str):
        super().__init__(
            lambda name: write_line(f"{name}: the points that run are asked to save and stop; once more ends all"),
            lambda name: write_line(f"{name} again: jaxpt {recipe} and its points are ended"),
        )
