"""Log-probabilities of the right answers to questions whose answers are generated: what moves before a score does."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.evaluation.harness.local_tasks import LocalTask
from jaxpt.evaluation.harness.records import EvaluationRecord

GOLD = "gold"  # of a sample: the right continuation and its log-probability


def gold_continuation(task: Task, document: EvaluationRecord, chat_template: bool = False) -> str | None:
    """Returns the right answer as it continues the prompt, after the task's delimiter; None where there is no text.

    Of several right answers it is the first. In a conversation no delimiter stands before it.
    """
    target = task.doc_to_target(document)
    if isinstance(task, LocalTask) and task.scorer is not None:
        target = task.scorer.gold(document) or target
    if isinstance(target, list):
        target = target[0] if target else None
    if target is None or isinstance(target, (dict, float)) or not str(target).strip():
        return None
    delimiter = task.get_config("target_delimiter")
    return ("" if chat_template or delimiter is None else delimiter) + str(target)


def score_gold(model: JaxptModel, tasks: Sequence[Task], samples: Mapping[str, Any], chat_template: bool) -> None:
    """Gives each sample of a generated answer `gold`: the right continuation of its prompt and its log-probability.

    An answer that is longer than the model alone reads has none.
    """
    requests, where = [], []
    for task in tasks:
        if task.OUTPUT_TYPE != "generate_until":
            continue
        documents: dict[int, list[dict[str, Any]]] = {}  # a sample for each filter
        for sample in samples.get(task.task_name, ()):
            documents.setdefault(sample["doc_id"], []).append(sample)
        for number, some in documents.items():
            context, gold = some[0]["arguments"][0][0], gold_continuation(task, some[0]["doc"], chat_template)
            if gold is None or not 0 < model.continuation_length(gold) <= model.max_length:
                continue
            requests.append(Instance("loglikelihood", dict(some[0]["doc"]), (context, gold), number))
            where.append(some)
    for (total, _), request, some in zip(model.loglikelihood(requests) if requests else (), requests, where):
        for sample in some:
            sample[GOLD] = [request.args[1], total]
