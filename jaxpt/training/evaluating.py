"""Evaluating: the entries of a config's `evaluations` as events of the run."""

from jaxpt.config.duration import parse_interval
from jaxpt.evaluation.evaluation import Evaluation, EvaluationSetting, Measure, prefix
from jaxpt.models.config import ModelConfig
from jaxpt.tokenizers import Tokenizer
from jaxpt.training.config import RunConfig
from jaxpt.training.events import Changes, Due, Event, RunView


class Evaluating(Event):
    """Measures one entry, unless the record of an earlier attempt is there."""

    after_checkpoint = True

    def __init__(self, name: str, evaluation: Evaluation, tokenizer: Tokenizer | None = None):
        """`name` is the entry's in `evaluations`; `tokenizer` that of the data."""
        self.name, self._evaluation, self._tokenizer = name, evaluation, tokenizer
        every = parse_interval(evaluation.every, f"config.evaluations.{name}.every")
        self.due = Due(every=every, first=evaluation.before, last=evaluation.after)
        self._measures: dict[tuple[ModelConfig, int], Measure] = {}

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`."""
        return super().is_due(view) and not view.has_record(prefix(self.name))

    def act(self, view: RunView) -> Changes:
        """Measures the parameters as they are, their mean (`eval/ENTRY/mean/NAME`), or both."""
        measures, of_run = view.plan.config.averaging.measures, {"": view.evaluated, "mean/": view.evaluated_mean}
        wanted = {"params": [""], "mean": ["mean/"], "both": ["", "mean/"]}[measures]
        named = [(which, self._measure(view)(view.step, of_run[which])) for which in wanted]
        start = prefix(self.name)
        return Changes({f"{start}{w}{name}": float(v) for w, values in named for name, v in values.items()})

    def _measure(self, view: RunView) -> Measure:
        key = view.model, view.stage.config.sequence_length
        if key not in self._measures:
            setting = EvaluationSetting(*key, self._tokenizer, view.stage.step.compute, view.workdir, view.mesh)
            self._measures[key] = self._evaluation.prepare(setting)
        return self._measures[key]


def evaluations(config: RunConfig, tokenizer: Tokenizer | None) -> list[Evaluating]:
    """Returns the events of `config.evaluations`.

    Raises:
        JaxptError: something that an entry needs is missing: a file, a tokenizer.
    """
    for name, entry in config.evaluations.items():
        entry.check_inputs(f"config.evaluations.{name}", tokenizer)
    return [Evaluating(name, entry, tokenizer) for name, entry in config.evaluations.items()]
