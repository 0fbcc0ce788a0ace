"""Evaluating: the entries of a config's `evaluations` as events of the run, and which checkpoints stay for them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax

from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.checkpoints.marks import KeptByScore, ScoredCheckpoint
from jaxpt.config.duration import parse_interval
from jaxpt.errors import JaxptError
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.evaluation import BestBy, Evaluation, EvaluationSetting, Measure, prefix
from jaxpt.models.config import ModelConfig
from jaxpt.tokenizers import Tokenizer
from jaxpt.training.config import RunConfig
from jaxpt.training.events import Changes, Due, Event, RunView
from jaxpt.training.metrics import read


class Evaluating(Event):
    """Measures one entry, unless the record of an earlier attempt is there."""

    after_checkpoint = True

    def __init__(self, name: str, evaluation: Evaluation, tokenizer: Tokenizer | None = None):
        """`name` is the entry's in `evaluations`; `tokenizer` that of the data."""
        self.name, self._evaluation, self._tokenizer = name, evaluation, tokenizer
        every = parse_interval(evaluation.every, f"config.evaluations.{name}.every")
        self.due = Due(every, evaluation.stage_ends, first=evaluation.before, last=evaluation.after)
        self._measures: dict[tuple[ModelConfig, int], Measure] = {}

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`."""
        return super().is_due(view) and not view.has_record(prefix(self.name))

    def act(self, view: RunView) -> Changes:
        """Measures the parameters as they are, their mean (`eval/ENTRY/mean/NAME`), or both."""
        try:
            named = self._measured(view)
        except Exception as error:
            if self._evaluation.failure_stops or jax.process_count() > 1:  # the others may be in a common computation
                raise
            kind = "" if isinstance(error, JaxptError) else f"{type(error).__name__}: "
            return Changes(failed=" ".join(f"{kind}{error}".split())[:300])
        if (best := self._evaluation.best_by()) and view.step and jax.process_index() == 0:
            self._keep(view.workdir, view.step, best, named)
        return Changes({f"{prefix(self.name)}{name}": value for name, value in named.items()})

    def _measured(self, view: RunView) -> dict[str, float]:
        measures, of_run = view.plan.config.averaging.measures, {"": view.evaluated, "mean/": view.evaluated_mean}
        wanted = {"params": [""], "mean": ["mean/"], "both": ["", "mean/"]}[measures]
        named = [(which, self._measure(view)(view.step, of_run[which])) for which in wanted]
        return {f"{w}{name}": float(v) for w, values in named for name, v in values.items()}

    def _measure(self, view: RunView) -> Measure:
        key = view.model, view.stage.config.sequence_length
        if key not in self._measures:
            compute = view.stage.step.compute.unquantised
            setting = EvaluationSetting(*key, self._tokenizer, compute, view.workdir, view.mesh, self.name)
            self._measures[key] = self._evaluation.prepare(setting)
        return self._measures[key]

    def _keep(self, workdir: Path, step: int, best: BestBy, named: Mapping[str, float]) -> None:
        """Writes down the value of every checkpoint that is there, for whoever removes checkpoints."""
        metric = f"{prefix(self.name)}{best.metric}"
        values = {r["step"]: r[metric] for r in read(workdir / "metrics.jsonl") if metric in r}
        values |= {step: named[best.metric]} if best.metric in named else {}
        scored = []
        for there in finished_steps(workdir):
            if there in values:
                run = read_run(workdir, there)
                scored.append(ScoredCheckpoint(there, marks.stage_of(run), marks.digest_of(run), values[there]))
        marks.write(workdir, KeptByScore(self.name, *best, scored=tuple(scored)))


def evaluations(config: RunConfig, tokenizer: Tokenizer | None) -> list[Evaluating]:
    """Returns the events of those of `config.evaluations` that the run measures itself.

    Raises:
        JaxptError: something that an entry needs is missing: a file, a tokenizer, a library.
    """
    for name, entry in config.evaluations.items():
        entry.check_inputs(f"config.evaluations.{name}", tokenizer)
    return [Evaluating(name, entry, tokenizer) for name, entry in config.evaluations.items() if entry.measured_by_run]


def begin_marks(config: RunConfig, workdir: Path) -> None:
    """Makes checkpoints wait from the first one on where a follower is to keep the best; the run's writer calls it.

    Raises:
        JaxptError: what an entry keeps was not written here.
    """
    known = {kept.entry: kept for kept in marks.read(workdir)}
    for name, entry in config.evaluations.items():
        if isinstance(entry, Downstream) and entry.keep_best is not None and not entry.measured_by_run:
            begun = KeptByScore(name, entry.keep_best, waits=entry.backlog)
            if name in known and known[name].metric == entry.keep_best:
                begun = replace(known[name], waits=entry.backlog)
            if begun != known.get(name):
                marks.write(workdir, begun)
