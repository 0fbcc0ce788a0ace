"""The scores of tasks by one name each, `TASK/METRIC`: what a set of tasks will give, and what results hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.task import Task

from jaxpt.evaluation.harness.clean import KEY

BITS = "bits_per_byte"  # which jaxpt adds, where a document has a right answer that is judged
STDERR = "_stderr"  # at the end of the name of a metric: its standard error


def known_scores(tasks: Sequence[Task | Group | str]) -> dict[str, bool]:
    """Returns whether higher is better, by the name of each score that the tasks will give."""
    out: dict[str, bool] = {}
    for task in tasks:
        if isinstance(task, Group):
            members = [m for m in task.get_all_tasks() if isinstance(m, Task)]
            inside = [_of_task(m) for m in members]
            merged = {name: better for one in inside for name, better in one.items()}
            means = [(a.metric, a.filter_list) for a in task.aggregate_metric_list or ()]
            known = {n for n in merged if any(_is_of(n, metric, filters) for metric, filters in means)}
            out |= {f"{task.name}/{n}": b for n, b in merged.items() if n in known or n == BITS}
        elif isinstance(task, Task):
            out |= {f"{task.get_config('task')}/{name}": better for name, better in _of_task(task).items()}
    return out


def _of_task(task: Task) -> dict[str, bool]:
    filters = [f["name"] for f in task.get_config("filter_list") or ({"name": "none"},)]
    better = task.higher_is_better()
    out = {_name(m, f): bool(better.get(m, True)) for m in task.aggregation() for f in filters}
    return out | ({BITS: False} if task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood", "generate_until") else {})


def _is_of(name: str, metric: str, filters: Sequence[str] | None) -> bool:
    """Whether a group's mean of a metric, over some filters or over all (None), has this name."""
    return name.partition(",")[0] == metric if filters is None else name in [_name(metric, f) for f in filters]


def _name(metric: str, which: str) -> str:
    return metric if which == "none" else f"{metric},{which}"


def flat_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scores in results of lm_eval by name, and their standard errors as `TASK/METRIC_stderr`.

    Of a group it is the group's, not those of its members. Those over clean documents, where results have such, are
    called `clean/TASK/METRIC`.
    """
    inside = {member for members in results.get("group_subtasks", {}).values() for member in members}
    entries = [("", task, values) for task, values in results["results"].items()]
    over_clean = {**results[KEY]["tasks"], **results[KEY]["groups"]} if KEY in results else {}
    entries += [(f"{KEY}/", task, entry.get("scores", {})) for task, entry in over_clean.items()]
    out = {}
    for begin, task, values in entries:
        for key, value in values.items():
            metric, _, which = key.partition(",")
            if task not in inside and which and isinstance(value, (int, float)) and not isinstance(value, bool):
                out[f"{begin}{task}/{_name(metric, which)}"] = float(value)
    return out
