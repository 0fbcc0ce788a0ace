"""A scorer: what judges the answers to a task where no metric of lm_eval does, chosen by name in the task's file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxpt.config.choice import Choice
from jaxpt.evaluation.harness.records import EvaluationRecord


@dataclass(frozen=True)
class AnswerScorer(Choice, kind="scorer", room="jaxpt.evaluation.harness.scorers"):
    """The `scorer` of a task file: its name and options. Each of its metrics is a mean over documents, higher better.

    `runs_code`: it executes what the model wrote, which is done only when asked.
    """

    runs_code: ClassVar[bool] = False

    @property
    def metrics(self) -> Sequence[str]:
        """Names of what `score` returns."""
        raise NotImplementedError

    @property
    def answers(self) -> int:
        """How many answers to a document are asked for."""
        return 1

    def check(self, document: EvaluationRecord) -> None:
        """Raises an error for a document that cannot be scored; called before the model is asked."""

    def prepare(self, asked: Sequence[tuple[EvaluationRecord, Sequence[str]]], done: Callable[[], None]) -> None:
        """Is given all documents with their answers before `score` is asked, where much at once is faster; calls `done`
        after each document."""

    def score(self, document: EvaluationRecord, answers: Sequence[str]) -> dict[str, float]:
        """Returns each metric of one document, whose `answers` are as many as were asked for."""
        raise NotImplementedError

    def gold(self, document: EvaluationRecord) -> str | None:
        """Returns a right answer where the task's `doc_to_target` is none; None: that is one."""
        return None
