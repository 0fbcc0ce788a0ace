"""pass@k: how likely one of k programs that a model writes passes its tests. It executes them (`programs`)."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

from lm_eval.utils import apply_template

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness.programs import ProgramLimits, run_program
from jaxpt.evaluation.harness.records import EvaluationRecord
from jaxpt.evaluation.harness.scorer import AnswerScorer


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Returns 1 - C(n - correct, k) / C(n, k): how likely one of k among n programs is one of the `correct` ones.

    The unbiased estimator of Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@dataclass(frozen=True)
class PassAtK(AnswerScorer):
    """Runs each answer as a program and then the document's tests; `pass@1` and so on."""

    program: str = option("{{prompt}}{{answer}}", "the program: a template of the document's fields and `answer`")
    tests: str = option("{{test}}", "what is executed after it, a template of the document's fields")
    k: tuple[int, ...] = option((1,), "of so many programs one must pass")
    n: int = option(1, "programs that the model writes for each document")
    seconds: float = option(10.0, "that a program may take")
    memory_mib: int = option(1024, "that a program may take, in MiB")

    runs_code: ClassVar[bool] = True
    _verdicts: dict[tuple[str, str], str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises a JaxptError for more programs to choose than are written."""
        if not self.k or min(self.k) < 1 or max(self.k) > self.n:
            raise JaxptError(f"k is {list(self.k)}, each must be between 1 and n, which is {self.n}")
        if self.seconds <= 0 or self.memory_mib < 64:
            raise JaxptError("seconds must be above 0, and memory_mib at least 64, which Python itself needs")

    @property
    def metrics(self) -> Sequence[str]:
        """One for each k."""
        return [f"pass@{k}" for k in self.k]

    @property
    def answers(self) -> int:
        """The programs."""
        return self.n

    def pair(self, document: EvaluationRecord, answer: str) -> tuple[str, str]:
        """Returns the program and its tests."""
        fields = {**document, "answer": answer}
        return apply_template(self.program, fields), apply_template(self.tests, fields)

    def check(self, document: EvaluationRecord) -> None:
        """Raises an error where the templates name a field that the document lacks."""
        self.pair(document, "")

    def prepare(self, asked: Sequence[tuple[EvaluationRecord, Sequence[str]]], done: Callable[[], None]) -> None:
        """Runs all programs, as many at once as there are cores."""
        pairs = [[self.pair(document, answer) for answer in answers] for document, answers in asked]
        new = list(dict.fromkeys(p for some in pairs for p in some if p not in self._verdicts))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = dict(zip(new, [pool.submit(self._run, p) for p in new]))
            try:
                for some in pairs:
                    for pair in some:
                        if pair in running:
                            self._verdicts[pair] = running[pair].result()
                    done()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def score(self, document: EvaluationRecord, answers: Sequence[str]) -> dict[str, float]:
        """Returns pass@k of each k."""
        correct = 0
        for pair in (self.pair(document, answer) for answer in answers):
            if pair not in self._verdicts:
                self._verdicts[pair] = self._run(pair)
            correct += self._verdicts[pair] is None
        return {f"pass@{k}": pass_at_k(len(answers), correct, k) for k in self.k}

    def _run(self, pair: tuple[str, str]) -> str | None:
        return run_program(*pair, ProgramLimits(self.seconds, self.memory_mib << 20))
