"""Following a run: each of its checkpoints is scored once, by a process of its own that only reads them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpt import tokenizers
from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, model_of, read_params, read_run
from jaxpt.checkpoints.marks import KeptByScore, ScoredCheckpoint
from jaxpt.checkpoints.newest import read_once
from jaxpt.checkpoints.reading import has_mean
from jaxpt.checkpoints.run_files import WAY_OUT, has_tokenizer, read_lineage
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.downstream import MEAN, Downstream
from jaxpt.evaluation.evaluation import BestBy, prefix
from jaxpt.evaluation.option_names import FOLLOWER_FLAGS, OptionNames
from jaxpt.files.digests import read_json
from jaxpt.files.holder import read_holder
from jaxpt.files.lock import STALE, Lock, inside
from jaxpt.models.model import Model
from jaxpt.objectives.objective import Objective
from jaxpt.training import followed
from jaxpt.training.config import RunConfig, ShardingConfig
from jaxpt.training.history import newest_saved, read_legs, whole
from jaxpt.training.state import Layout, make_layout
from jaxpt.training.tensorboard import Board

POLL = 5.0  # seconds between two looks for a new checkpoint


def waiting_entry(workdir: Path, name: str | None) -> tuple[str, Downstream]:
    """Returns the entry of a run's config that its followers are to score, by its name, or the only one there is.

    Raises:
        JaxptError: no run directory, no such entry, or several and no name.
    """
    _check_run(workdir)
    config = build(RunConfig, read_json(workdir, "config.json", dict, WAY_OUT))
    found = {entry: e for entry, e in config.evaluations.items() if isinstance(e, Downstream) and not e.measured_by_run}
    if not found:
        raise JaxptError(f"--tasks is missing: the config of {workdir} leaves none to a follower (process='follower')")
    if name is None and len(found) > 1:
        raise JaxptError(f"the config of {workdir} leaves several to followers; give --entry={'|'.join(found)}")
    if name is not None and name not in found:
        hint = nearest(name, found)
        raise JaxptError(f"--entry={name}: the config of {workdir} leaves no such one to a follower{hint}")
    name = name or next(iter(found))
    return name, found[name]


def _check_run(workdir: Path) -> None:
    if not (workdir / "config.json").is_file() or not (workdir / "model.json").is_file():
        raise JaxptError(f"--follow={workdir} is not a run directory: it lacks config.json or model.json")


@dataclass
class Follower:
    """A run, the entry under which its checkpoints are scored, and how.

    `mesh` is what parameters are sharded over ({}: one device); `report` receives a line for the person watching;
    `said` is how messages name the options of `asked`.
    """

    workdir: Path
    entry: str
    asked: Downstream
    mesh: Mapping[str, int] = field(default_factory=dict)
    report: Callable[[str], None] = print
    said: OptionNames = FOLLOWER_FLAGS
    _unreadable: dict[int, str] = field(default_factory=dict)
    _said_trained: bool = True
    _board: Board | None = None

    def follow(self, once: bool = False) -> int:
        """Scores every checkpoint, oldest first, until the run is finished, or with `once` those that are there.

        Returns:
            0, or 1 where a checkpoint could not be read.

        Raises:
            JaxptError: no run with a tokenizer, another follower of this entry, tasks that cannot be asked.
        """
        _check_run(self.workdir)
        if not has_tokenizer(self.workdir):
            raise JaxptError(f"--follow={self.workdir}: the run has no tokenizer; train with --config.tokenizer")
        best = self.asked.best_by(self.said)
        folder = marks.folder(self.workdir, self.entry)
        with Lock(inside(folder), folder, "--entry").acquire():
            self._introduce()
            self._mark(best, 0 if once else self.asked.backlog)
            while True:
                finished = self.run_is_finished()  # looked at first: what it then has is all there will be
                while (step := self._next()) is not None:
                    self._score(step)
                    self._mark(best, 0 if once else self.asked.backlog)
                if once or finished:
                    break
                self._wait()
        if self._board is not None:
            self._board.close()
        for line in self._unreadable.values():
            self.report(line)
        return 1 if self._unreadable else 0

    def run_is_finished(self) -> bool:
        """Whether the newest checkpoint is that of the last step that the run's config plans."""
        saved = newest_saved(self.workdir)
        if saved is None:
            return False
        stages = self._config().stages
        return bool(saved["step"] >= whole(stages, read_legs(saved, stages))[-1].stop)

    def _config(self) -> RunConfig:
        return build(RunConfig, read_json(self.workdir, "config.json", dict, WAY_OUT))

    def _introduce(self) -> None:
        done, there = self._scored(), marks.digests_of(self.workdir, finished_steps(self.workdir))
        left = [step for step, digest in there.items() if done.get(step) != digest]
        self.report(f"{self.workdir}: {len(there)} checkpoints, {len(left)} of them to be scored as {self.entry}")
        if any(type(s.objective).evaluated is not Objective.evaluated for s in self._config().stages):
            self.report("a stage's objective has evaluations see its mask; a follower scores parameters as they lie")

    def _scored(self) -> dict[int, str]:
        """The checkpoints that were scored as it is asked now: digest by step."""
        records = followed.read_entry(self.workdir, self.entry)
        return {r["step"]: r["digest"] for r in records if r["asked"] == self.asked.asked}

    def _next(self) -> int | None:
        """The oldest checkpoint that is to be scored."""
        done = self._scored()
        for step in finished_steps(self.workdir):
            if step not in self._unreadable and done.get(step) != marks.digests_of(self.workdir, [step]).get(step, ""):
                return step
        return None

    def _score(self, step: int) -> None:
        begun, opened = time.perf_counter(), time.time()
        try:
            run, models, layout = read_once(self.workdir, step, self._models, named=True)
        except JaxptError as error:
            if step not in finished_steps(self.workdir):
                self.report(f"checkpoint {step} was removed before it was scored")
                return
            self._unreadable[step] = f"not scored: {error}"
            return
        from jaxpt.evaluation.harness.measuring import measure

        self.report(f"step {step}: scoring {self.entry} …")
        output, start = marks.folder(self.workdir, self.entry), prefix(self.entry)
        values: dict[str, float] = {}
        for which, model in models.items():
            name = f"{step}.mean" if which else str(step)
            mesh = None if layout is None else layout.mesh
            scores = measure(self.asked, model, output, name, mesh, self.said)
            values |= {f"{start}{which}{n}": v for n, v in scores.items()}
        facts = {"of_stage": marks.stage_of(run), "digest": marks.digest_of(run), "asked": self.asked.asked}
        record: dict[str, Any] = {"step": step, "tokens": run["tokens"], "time": opened, **facts, **values}
        followed.add(self.workdir, self.entry, record)
        if self._config().metrics.tensorboard:
            self._board = self._board or Board(self.workdir / "tensorboard" / self.entry, step - 1)
            self._board.add(step, values)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if not name.endswith("_stderr"))
        self.report(f"step {step}: {shown} ({time.perf_counter() - begun:.1f} s)")

    def _models(self, step: int) -> tuple[RunItem, dict[str, Model], Layout | None]:
        """A checkpoint's `run` item, what is to be measured (parameters, their mean, or both), and where it lies."""
        run = read_run(self.workdir, step)
        config = model_of(run)
        layout = make_layout(config, ShardingConfig(mesh=dict(self.mesh))) if self.mesh else None
        where = None if layout is None else layout.params
        measures = self._config().averaging.measures if has_mean(run) else "params"
        wanted = {"params": [""], "mean": [MEAN], "both": ["", MEAN]}[measures]
        tokenizer, lineage = tokenizers.load(self.workdir / "tokenizer"), tuple(read_lineage(self.workdir))
        read = {w: read_params(self.workdir, step, run, where, mean=bool(w)) for w in wanted}
        return run, {w: Model(config, params, tokenizer, lineage) for w, params in read.items()}, layout

    def _mark(self, best: BestBy | None, waits: int) -> None:
        """Says which checkpoints are to stay, for the run, which alone removes any."""
        if best is None:
            return
        name = f"{prefix(self.entry)}{best.metric}"
        scored = [
            ScoredCheckpoint(r["step"], r["of_stage"], r["digest"], r[name])
            for r in followed.read_entry(self.workdir, self.entry)
            if r["asked"] == self.asked.asked and name in r
        ]
        marks.write(self.workdir, KeptByScore(self.entry, *best, waits=waits, scored=tuple(scored)))

    def _wait(self) -> None:
        trained = self._is_trained()
        if not trained and self._said_trained:
            self.report("no process trains the run at the moment; waiting for it to go on (--once ends without)")
        self._said_trained = trained
        time.sleep(POLL)

    def _is_trained(self) -> bool:
        try:
            holder = read_holder(inside(self.workdir))
        except OSError:
            return False
        return holder is not None and (holder.is_alive if holder.is_here else holder.silence < STALE)
