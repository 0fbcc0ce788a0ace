"""Downstream tasks of lm_eval at a run's checkpoints: in the run's own process, or in one that follows it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxpt.checkpoints import marks
from jaxpt.checkpoints.run_files import read_lineage
from jaxpt.config.choice import option
from jaxpt.data import contamination
from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.evaluation import BestBy, Evaluation, EvaluationSetting, Measure
from jaxpt.evaluation.option_names import FLAGS, OptionNames, key_names
from jaxpt.files.digests import canonical_digest
from jaxpt.models.compute import Compute
from jaxpt.models.model import Model
from jaxpt.tokenizers import Tokenizer

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

MEAN = "mean/"  # before the names of scores of the mean of the parameters
_KNOWN: "dict[Downstream, dict[str, bool]]" = {}  # opening tasks takes seconds
HOW = ("tasks", "num_fewshot", "limit", "dtype", "max_length", "chat_template", "system", "seed")  # scores depend on it


@dataclass(frozen=True)
class Downstream(Evaluation):
    """Scores on tasks, logged as `eval/ENTRY/TASK/METRIC`; whole results lie in `scores/ENTRY/STEP` of the run.

    With `process` "follower" the run itself scores nothing: `jaxpt eval --follow=RUN` scores every checkpoint.
    """

    failure_stops: ClassVar[bool] = False

    tasks: tuple[str, ...] = option((), "names of tasks, or task files (NAME.yaml)")
    data: str | None = option(None, "folder with the files of evaluation sets")
    num_fewshot: int | None = option(None, "examples before each question; None: the task's")
    limit: int | None = option(None, "the first so many documents of each task; None: all")
    dtype: str = option("float32", "compute dtype: float32 or bfloat16")
    max_length: int | None = option(None, "tokens read at once; None: the model's positions")
    batch_tokens: int | None = option(None, "tokens judged at once")
    slots: int | None = option(None, "prompts continued at once")
    chat_template: bool = option(False, "write prompts as conversations")
    system: str | None = option(None, "what a conversation begins with")
    seed: int = option(1234, "of the choice of examples")
    contaminated: str | None = option(None, "contaminated.json files A,B: scores without what sources hold, beside")
    keep_best: str | None = option(None, "a score, TASK/METRIC: the best checkpoint of each stage by it stays")
    process: Literal["run", "follower"] = option("run", "who scores: the run, or jaxpt eval --follow=RUN")
    backlog: int = option(20, "with keep_best and a follower: so many checkpoints may wait for their score")

    @property
    def is_empty(self) -> bool:
        """Without tasks."""
        return not self.tasks

    @property
    def measured_by_run(self) -> bool:
        """Whether the run's own process scores."""
        return self.process == "run"

    @property
    def asked(self) -> str:
        """A digest of what scores depend on besides the model: tasks and how they are asked."""
        values: dict[str, Any] = {name: getattr(self, name) for name in HOW}
        if self.contaminated is not None:  # else as before there was the option
            values["contaminated"] = _content(self.contaminated)
        return canonical_digest({**values, "tasks": sorted(self.tasks)})

    def check(self, where: str) -> None:
        """As `Evaluation.check`."""
        super().check(where)
        key_names(where).check_counts(self)
        Compute(dtype=self.dtype)
        if not self.measured_by_run and (self.every is not None or self.stage_ends):
            key = "every" if self.every is not None else "stage_ends"
            raise JaxptError(
                f"{where}.{key} has no effect with process='follower', which scores every checkpoint; set "
                f"config.checkpoint.every"
            )

    def check_inputs(self, where: str, tokenizer: Tokenizer | None) -> None:
        """As `Evaluation.check_inputs`: lm_eval, a tokenizer, tasks that can be asked, the score of `keep_best`."""
        if tokenizer is None:
            raise JaxptError(f"{where} needs a tokenizer; set --config.tokenizer")
        if not self.measured_by_run:
            return  # the follower may run where the files are, and lm_eval is
        need_lm_eval(where)
        self.best_by(key_names(where))

    def best_by(self, said: OptionNames = FLAGS) -> BestBy | None:
        """As `Evaluation.best_by`; the tasks are opened, once in a process. `said` is how messages name options.

        Raises:
            JaxptError: tasks that cannot be asked, or do not give the score.
        """
        known = _known(self, said)
        if self.keep_best is None:
            return None
        name = self.keep_best.removeprefix(MEAN)
        if name not in known:
            hint = nearest(name, known) or f"; they give {', '.join(known)}"
            raise JaxptError(f"{said['keep_best']} is {self.keep_best!r}, which the tasks do not give{hint}")
        return BestBy(self.keep_best, known[name])

    def find_tasks(self, said: OptionNames) -> "Sequence[Task | Group | str]":
        """Returns the tasks, read anew; `said` is how messages name options.

        Raises:
            JaxptError: a task that is not there or cannot be asked as it should be.
        """
        from jaxpt.evaluation.harness.evaluating import check_tasks, find_tasks

        found = find_tasks(self.tasks, None if self.data is None else Path(self.data), said)
        check_tasks(found, self.num_fewshot, said=said)
        return found

    def prepare(self, setting: EvaluationSetting) -> Measure:
        """As `Evaluation.prepare`."""
        from jaxpt.evaluation.harness.measuring import measure

        assert setting.tokenizer is not None, "checked before the run began"
        lineage, output = read_lineage(setting.workdir), marks.folder(setting.workdir, setting.entry)

        def scored(step: int, params: Any) -> dict[str, float]:
            model = Model(setting.model, params, setting.tokenizer, (*lineage,))
            return measure(
                self, model, output, str(step), setting.mesh, key_names(f"config.evaluations.{setting.entry}")
            )

        return scored


def _known(asked: Downstream, said: OptionNames) -> dict[str, bool]:
    from jaxpt.evaluation.harness.scores import known_scores

    if asked not in _KNOWN:
        tasks = asked.find_tasks(said)
        known = known_scores(tasks)
        if asked.contaminated is not None:
            from jaxpt.evaluation.harness.clean import KEY, check

            there = check(tasks, contamination.read_all(asked.contaminated), said["contaminated"])
            known |= {f"{KEY}/{name}": better for name, better in known.items() if there[name.rpartition("/")[0]]}
        _KNOWN[asked] = known
    return _KNOWN[asked]


@functools.lru_cache(maxsize=16)
def _content(paths: str) -> str:
    return contamination.digest(contamination.read_all(paths))


def need_lm_eval(where: str, *, hub: bool = False) -> None:
    """Makes sure that tasks can be read, without a network unless `hub`; called before anything of lm_eval is imported.

    Raises:
        JaxptError: lm_eval is not installed.
    """
    if find_spec("lm_eval") is None:
        raise JaxptError(f"{where} needs the library lm_eval: pip install 'jaxpt[eval]'")
    if not hub:
        from jaxpt.evaluation.harness.offline import stay_offline

        stay_offline()
