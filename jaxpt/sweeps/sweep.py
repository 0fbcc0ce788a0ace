"""Running a sweep in a directory: points, rungs, results; started again, only what is not finished is run."""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.cli.terminal import progress
from jaxpt.config.schema import plain
from jaxpt.errors import JaxptError
from jaxpt.files.partial import whole_file
from jaxpt.sweeps.halving import Rung, survivors
from jaxpt.sweeps.over import literal_key
from jaxpt.sweeps.points import SweepPoint
from jaxpt.sweeps.results import PointResult, measure, read_results, result_of, write_results
from jaxpt.sweeps.runners import Runner, Task
from jaxpt.training.metrics import read
from jaxpt.training.run_directory import differences
from jaxpt.training.run_plan import RunPlan

POINTS, RESULTS, FACTS = "points", "results.jsonl", "sweep.json"
LINE = 300  # characters of a log's last line that are kept
FORMAT = 1


@dataclass(frozen=True)
class PointCost:
    """What a point takes that gets to the end, and the step at which each rung ends."""

    steps: int
    tokens: int
    flops: float
    rung_steps: tuple[int, ...]
    rung_tokens: tuple[int, ...]
    rung_flops: tuple[float, ...]


def cost_of(plan: RunPlan, rungs: Sequence[Rung]) -> PointCost:
    """Returns the cost of a point with this plan; a rung ends at the first step that has its tokens."""
    steps = [min(plan.steps, step_with(plan, rung.tokens)) for rung in rungs[:-1]] + [plan.steps]
    return PointCost(
        plan.steps,
        plan.tokens_at(plan.steps),
        plan.flops_at(plan.steps),
        tuple(steps),
        tuple(plan.tokens_at(step) for step in steps),
        tuple(plan.flops_at(step) for step in steps),
    )


def step_with(plan: RunPlan, tokens: int) -> int:
    """Returns the first step after which `tokens` were trained on."""
    low, high = 1, plan.steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if plan.tokens_at(middle) >= tokens else (middle + 1, high)
    return low


@dataclass
class SweepRun:
    """A sweep and where it is kept; `results` grows while it runs."""

    workdir: Path
    points: Sequence[SweepPoint]  # with their names
    costs: Mapping[str, PointCost]  # by the point's name
    rungs: Sequence[Rung]
    metric: str
    log: Callable[[str], None] = print
    results: dict[tuple[str, int], PointResult] = field(default_factory=dict)  # by the point's name and the rung

    def run(self, runner: Runner, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Runs what is not finished; returns whether all is done that can be, False where it was asked to stop."""
        metrics = {p.name: self.metric_of(p) for p in self.points}
        known = read_results(self.workdir / RESULTS)
        self.results = {(r.point, r.rung): r for r in known if r.metric == metrics.get(r.point)}
        within = list(self.points)
        for number, rung in enumerate(self.rungs):
            self._run_rung(number, within, runner, stopping)
            if stopping():
                return False
            scores = {p.name: self.results[p.name, number].score for p in within}
            best = survivors(scores, rung.keep, [p.name for p in within])
            if number < len(self.rungs) - 1:
                within = [p for p in within if p.name in best]
                tokens, names = f"{rung.tokens:,}", ", ".join(best) or "none"
                self.log(f"rung {number + 1} of {len(self.rungs)}, {tokens} tokens: {names} go on")
        return True

    def newest(self) -> list[PointResult]:
        """Returns the last result of each point, best first: by the rung that it reached, then by its loss."""
        last: dict[str, PointResult] = {}
        for point in self.points:
            for number in range(len(self.rungs)):
                if (result := self.results.get((point.name, number))) is not None:
                    last[point.name] = result
        return sorted(last.values(), key=lambda r: (-r.rung, r.score, r.point))

    def _run_rung(
        self, number: int, within: Sequence[SweepPoint], runner: Runner, stopping: Callable[[], bool]
    ) -> None:
        waiting = [p for p in within if not self._is_known(p, number)]
        for point in [p for p in waiting if self._is_measured(p, number)]:
            self._take(point, number, 0, False)  # a kill came between its end and its result
            waiting.remove(point)
        by_name = {p.name: p for p in waiting}
        tasks = [Task(p.name, self._command(p, number), self._file(p, ".log")) for p in waiting]
        with progress(len(within), "sweep", "point", start=len(within) - len(waiting)) as bar:
            for name, code in self._run_tasks(runner, tasks, stopping):
                self._take(by_name[name], number, code, stopping())
                bar.update()

    def _run_tasks(self, runner: Runner, tasks: list[Task], stopping: Callable[[], bool]) -> Iterator[tuple[str, int]]:
        return runner.run(tasks, stopping) if tasks else iter(())

    def _is_known(self, point: SweepPoint, number: int) -> bool:
        result = self.results.get((point.name, number))
        if result is None or result.state not in ("finished", "diverged"):
            return False
        return result.state == "diverged" or result.step == self.costs[point.name].rung_steps[number]

    def _is_measured(self, point: SweepPoint, number: int) -> bool:
        """Whether a run has all that its result needs; an evaluation at its end may be missing."""
        cost, file = self.costs[point.name], self.folder(point) / "metrics.jsonl"
        if self._done(point) < cost.rung_steps[number] or not file.is_file():
            return False
        records = [r for r in read(file) if "tokens" in r]
        return measure(records, self.metric_of(point), cost.rung_tokens[number]) is not None

    def _take(self, point: SweepPoint, number: int, code: int, stopping: bool) -> None:
        """Reads what came of a point, keeps it and says it."""
        cost, log = self.costs[point.name], self._file(point, ".log")
        by = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        error = f"{by}; {_last_line(log)}" if code < 0 else _last_line(log) or by
        result = result_of(
            point.name, point.values, self.folder(point), number, cost.rung_tokens[number], cost.rung_steps[number],
            self._done(point), self.metric_of(point), stopping, error,
        )  # fmt: skip
        self.results[point.name, number] = result
        write_results(self.workdir / RESULTS, [self.results[key] for key in sorted(self.results)])
        said = {"finished": f"{result.metric} {result.score:.4f} after {result.tokens:,} tokens", "failed": error}
        line = said.get(result.state, f"at {result.tokens:,} tokens")
        self.log(f"point {point.name} ({point.label}) {result.state}: {line}")

    def _command(self, point: SweepPoint, number: int) -> tuple[str, ...]:
        config, step = self._file(point, ".json"), self.costs[point.name].rung_steps[number]
        train = (sys.executable, "-m", "jaxpt", "train", f"--config={config}", f"--workdir={self.folder(point)}")
        return train if step >= self.costs[point.name].steps else (*train, f"--until_step={step}")

    def metric_of(self, point: SweepPoint) -> str:
        """Returns what is compared of a point: the metric, with each `{KEY}` in it replaced by the point's value."""
        metric = self.metric
        for key, value in point.values.items():
            metric = metric.replace(f"{{{key}}}", str(value))
        return metric

    def folder(self, point: SweepPoint) -> Path:
        """Returns the run directory of a point."""
        return self._file(point, "")

    def _file(self, point: SweepPoint, suffix: str) -> Path:
        return self.workdir / POINTS / f"{point.name}{suffix}"

    def _done(self, point: SweepPoint) -> int:
        steps = finished_steps(self.folder(point))
        return steps[-1] if steps else 0


def named(workdir: Path, points: Sequence[SweepPoint], facts: Mapping[str, Any]) -> list[SweepPoint]:
    """Gives the points their names: those they have in the directory, which is asked by their values, or new ones.

    Raises:
        JaxptError: the directory holds another sweep, or a point's config is another one than it began with.
    """
    file = workdir / FACTS
    stored = read_facts(workdir) if file.exists() else {"points": {}}
    if stored.get("recipe", facts["recipe"]) != facts["recipe"]:
        raise JaxptError(f"{workdir} holds a {stored['recipe']}, not a {facts['recipe']}; give another --workdir")
    known = {_identity(values): name for name, values in stored["points"].items()}
    out, number = [], len(known)
    for point in points:
        name = known.get(_identity(point.values))
        if name is None:
            name, number = f"{number:03d}", number + 1
        out.append(dataclasses.replace(point, name=name))
        config = workdir / POINTS / f"{name}.json"
        if not config.exists():
            continue
        for key, before, now in differences(json.loads(config.read_bytes()), json.loads(_json(plain(point.config)))):
            raise JaxptError(
                f"{workdir}: point {name} ({point.label}) began with config.{key}={before!r}, now it is {now!r}; take "
                f"that value or another --workdir"
            )
    return out


def prepare(workdir: Path, points: Sequence[SweepPoint], facts: Mapping[str, Any]) -> None:
    """Writes sweep.json and each point's config; points that are there and not asked for stay as they are."""
    stored = read_facts(workdir)["points"] if (workdir / FACTS).exists() else {}
    for point in points:
        _write(workdir / POINTS / f"{point.name}.json", _json(plain(point.config)))
    listed = {**stored, **{p.name: dict(p.values) for p in points}}
    _write(workdir / FACTS, _json({"format": FORMAT, **facts, "points": dict(sorted(listed.items()))}))


def read_facts(workdir: Path) -> dict[str, Any]:
    """Returns what sweep.json holds.

    Raises:
        JaxptError: there is none, or it is broken.
    """
    file = workdir / FACTS
    if not file.is_file():
        raise JaxptError(f"{workdir} is no sweep: it has no {FACTS}")
    try:
        facts = json.loads(file.read_bytes())
        if not isinstance(facts["points"], dict):
            raise TypeError("points is no dict")
    except (ValueError, TypeError, KeyError) as error:
        raise JaxptError(f"{file} is broken ({error}); restore it, or give another --workdir") from error
    return facts


def _identity(values: Mapping[str, object]) -> tuple[Any, ...]:
    return tuple(sorted((key, literal_key(str(value))) for key, value in values.items()))


def _last_line(log: Path) -> str:
    """What a process said last: the line of a mistake where there is one, without the parts of a progress bar."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace")
    lines = [" ".join(line.rpartition("\r")[2].split()) for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("train:", "sweep:"))]
    mistakes = [line for line in lines if line.startswith("jaxpt train: ")]
    return (mistakes or lines or [""])[-1][:LINE]


def _json(values: object) -> str:
    return json.dumps(values, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
        temporary.write_text(text, encoding="utf-8")
