"""An evaluation from a model to a file of results, in the format of `lm_eval`."""

import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.harness.gold_answers import GOLD, score_gold
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.evaluation.harness.local_tasks import LocalTask, local_task, shipped
from jaxpt.evaluation.harness.quiet import quiet_lm_eval
from jaxpt.evaluation.option_names import FLAGS, OptionNames
from jaxpt.files.partial import whole_file

Results = dict[str, Any]


def find_tasks(names: Sequence[str], data: Path | None, said: OptionNames = FLAGS) -> list[Task | Group | str]:
    """Returns tasks by name: a task file (`NAME.yaml`), with `data` one that comes with jaxpt, else one of lm_eval.

    `said` is how messages name options.

    Raises:
        JaxptError: an unknown name, with the nearest; a broken task file or its missing records; a task of lm_eval that
            cannot be loaded.
    """
    own = shipped()
    found: list[Task | Group | str] = []
    manager: TaskManager | None = None
    for name in names:
        if name.endswith((".yaml", ".yml")):
            if not Path(name).is_file():
                hint = nearest(Path(name).name, [file.name for file in Path(name).parent.glob("*.y*ml")])
                raise JaxptError(f"{said['tasks']}={name}: there is no such task file{hint}")
            found.append(local_task(Path(name), data, said))
        elif name in own and data is not None:
            found.append(local_task(own[name], data, said))
        else:
            manager = manager or TaskManager()
            if name not in manager.all_tasks:
                hint = nearest(name, [*own, *manager.all_tasks])
                raise JaxptError(
                    f"{said['tasks']}={name} is unknown{hint}; jaxpt eval --list names those that there are"
                )
            try:
                loaded = manager.load([name])
            except Exception as error:
                hub = "give --hub" if said.has("hub") else f"fetch it with jaxpt eval --hub --tasks={name} first"
                way = f"give {said['data']}=FOLDER, as {name} can be read from files" if name in own else hub
                reason = " ".join(str(error).split())[:300]
                raise JaxptError(
                    f"task {name} of lm_eval cannot be loaded from this machine "
                    f"({type(error).__name__}: {reason}); {way}"
                ) from error
            groups = list(loaded.get("groups", {}).values())
            inside = {child for group in groups for child in group.child_names}
            found += [g for g in groups if g.name not in inside] or list(loaded["tasks"].values())
    return found


def evaluate(
    model: JaxptModel,
    tasks: Sequence[Task | Group | str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat_template: bool = False,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool = False,
    seed: int = 1234,
    run_model_code: bool = False,
    judges: bool = True,
) -> Results:
    """Returns what `lm_eval.simple_evaluate` does, with bits per byte of the gold answers beside accuracies.

    Args:
        model: the model.
        tasks: from `find_tasks`.
        num_fewshot: examples before each question; None: as each task says.
        limit: documents of each task, the first ones.
        chat_template: write prompts as conversations, with the tokenizer's template.
        system_instruction: what such a conversation begins with.
        fewshot_as_multiturn: of a conversation each example is a turn of its own; else all are in the user's one.
        seed: of the choice of examples.
        run_model_code: programs that the model writes may be executed (`programs`, which is no sandbox).
        judges: False: answers are not given to scorers, as another process reports.

    Raises:
        JaxptError: more examples than there are; a task that would run what the model wrote.
    """
    check_tasks(tasks, num_fewshot, run_model_code)
    leaves = _leaves(tasks)
    for task in leaves:
        if isinstance(task, LocalTask):
            task.judges = judges
    results = _simple_evaluate(
        model,
        tasks=list(tasks),
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=chat_template,
        system_instruction=system_instruction,
        fewshot_as_multiturn=fewshot_as_multiturn,
        fewshot_random_seed=seed,
        bootstrap_iters=0 if limit is not None and limit < 10 else 1000,
    )
    score_gold(model, leaves, results["samples"], chat_template)
    add_bits_per_byte(results)
    results["config"] |= {
        "model": model.name,
        "model_dtype": model.engine.compute.dtype,
        "max_length": model.max_length,
    }
    results["truncated_requests"] = model.truncated
    return results


def _simple_evaluate(model: JaxptModel, **options: Any) -> Results:
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm_eval's bootstrap would fork a process that has JAX's threads
    try:
        with quiet_lm_eval():
            results = lm_eval.simple_evaluate(
                model,
                task_manager=TaskManager(include_defaults=False),  # reading all its task files takes seconds
                torch_random_seed=None,
                **options,
            )
    except AssertionError as error:
        raise JaxptError(f"lm_eval: {' '.join(str(error).split()) or 'an assertion failed'}") from error
    assert results is not None, "one process reports"
    return dict(results)


def check_tasks(
    tasks: Sequence[Task | Group | str],
    num_fewshot: int | None,
    run_model_code: bool = False,
    said: OptionNames = FLAGS,
) -> None:
    """Raises for a task that cannot be asked, before a model is.

    Args:
        tasks: from `find_tasks`.
        num_fewshot, run_model_code: as for `evaluate`.
        said: how messages name options.

    Raises:
        JaxptError: a task lacks examples, or runs what the model writes where that is not allowed.
    """
    leaves = _leaves(tasks)
    _check_examples(leaves, num_fewshot, said)
    _check_code(leaves, run_model_code, said)


def _check_examples(tasks: Sequence[Task], num_fewshot: int | None, said: OptionNames) -> None:
    for task in tasks:
        default = task.get_config("num_fewshot")
        shots = default if num_fewshot is None or default == 0 else num_fewshot  # lm_eval leaves a 0 as it is
        there = bool(task.get_config("fewshot_split") or task.has_training_docs() or task.has_validation_docs())
        own = task.get_config("fewshot_config") or {}
        if shots and not there and not (isinstance(own, Mapping) and own.get("samples")):
            raise JaxptError(
                f"task {task.get_config('task')} has no examples to show {shots} of: add their file to "
                f"{said['data']}, or give {said['num_fewshot']}=0"
            )


def _check_code(tasks: Sequence[Task], run_model_code: bool, said: OptionNames) -> None:
    for task in tasks:
        name = task.get_config("task")
        runs = isinstance(task, LocalTask) and task.scorer is not None and task.scorer.runs_code
        if not said.has("run_model_code") and (runs or task.get_config("unsafe_code")):
            raise JaxptError(
                f"task {name} runs what the model writes, which is not done here; score it with jaxpt eval"
            )
        if task.get_config("unsafe_code"):
            raise JaxptError(
                f"task {name} of lm_eval runs what the model writes, without limits, which jaxpt eval does not; leave "
                f"it out (humaneval and mbpp of --data=FOLDER run it in a limited process, with --run_model_code)"
            )
        if runs and not run_model_code:
            raise JaxptError(
                f"task {name} runs the programs that the model writes; --run_model_code allows it (in a limited "
                f"process that is no sandbox, see docs/evaluation.md), or leave the task out"
            )


def _leaves(tasks: Sequence[Task | Group | str]) -> list[Task]:
    out: list[Task] = []
    for task in tasks:
        out += task.get_all_tasks() if isinstance(task, Group) else [task] if isinstance(task, Task) else []
    return out


def gold_bits_per_byte(sample: Mapping[str, Any]) -> float | None:
    """Returns bits per byte (UTF-8) of the right continuation of a sample; None where it has no such, or several."""
    if GOLD in sample:
        continuation, total = sample[GOLD]
        return -float(total) / math.log(2) / len(continuation.encode())
    arguments, target = sample["arguments"], sample["target"]
    answers = [r[0] if isinstance(r[0], (list, tuple)) else r for r in sample["resps"]]
    if any(len(a) < 2 or not isinstance(a[1], str) for a in arguments) or not all(len(a) == 2 for a in answers):
        return None
    if len(arguments) == 1:
        number = 0
    else:
        texts = [a[1].strip() for a in arguments]
        if isinstance(target, str) and not target.isdigit():
            target = texts.index(target.strip()) if target.strip() in texts else None
        if not isinstance(target, (int, str)):
            return None
        number = int(target)
        if len({a[1] for a in arguments}) == 1:  # several contexts, one continuation: the target names a context
            number = _right_context(sample)
    if not 0 <= number < len(arguments):
        return None
    size = len(arguments[number][1].encode())
    return -float(answers[number][0]) / math.log(2) / size if size else None


def _right_context(sample: Mapping[str, Any]) -> int:
    label = sample["doc"].get("label", -1)
    return int(label) if str(label).isdigit() else -1


def add_bits_per_byte(results: Results) -> None:
    """Adds `bits_per_byte,none` and its standard error, over documents, to each task with gold answers."""
    for name, samples in results.get("samples", {}).items():
        first = {s["doc_id"]: s for s in samples}.values()  # once a document, whatever the filters
        values = [v for s in first if (v := gold_bits_per_byte(s)) is not None]
        task = results["results"].get(name)
        if task is None or not values or "bits_per_byte,none" in task:
            continue
        task["bits_per_byte,none"] = float(np.mean(values))
        task["bits_per_byte_stderr,none"] = (
            float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else "N/A"
        )
        results.get("higher_is_better", {}).setdefault(name, {})["bits_per_byte"] = False
    for group, members in results.get("group_subtasks", {}).items():
        mean_over_members(results, group, members)


def mean_over_members(results: Results, group: str, members: Sequence[str]) -> None:
    """Adds a group's bits per byte: the mean over all documents of its members."""
    first = {(name, s["doc_id"]): s for name in members for s in results.get("samples", {}).get(name, [])}
    values = [v for s in first.values() if (v := gold_bits_per_byte(s)) is not None]
    for where in ("results", "groups"):
        if values and group in results.get(where, {}):
            entry = results[where][group]
            entry["bits_per_byte,none"] = float(np.mean(values))
            entry["bits_per_byte_stderr,none"] = (
                float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else "N/A"
            )


def write(results: Results, folder: Path) -> Path:
    """Writes `results_DATE.json` and `samples_TASK_DATE.jsonl`, as lm_eval names and writes them; returns the first.

    The file of results is written last: where it is, the samples are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now().isoformat().replace(":", "-")
    for name, samples in results.get("samples", {}).items():
        target = folder / f"samples_{name}_{date}.jsonl"
        lines = [json.dumps(s, default=handle_non_serializable, ensure_ascii=False) + "\n" for s in samples]
        with whole_file(target, target.with_suffix(".tmp")):
            target.with_suffix(".tmp").write_text("".join(lines), encoding="utf-8")
    whole = {key: value for key, value in results.items() if key != "samples"}
    target = folder / f"results_{date}.json"
    with whole_file(target, target.with_suffix(".tmp")):
        target.with_suffix(".tmp").write_text(
            json.dumps(whole, indent=2, default=handle_non_serializable, ensure_ascii=False), encoding="utf-8"
        )
    return target


def rows(results: Results) -> list[list[object]]:
    """Returns rows (task, shots, documents, metric, value, standard error) of a table of results."""
    out: list[list[object]] = []
    for name, values in results["results"].items():
        shots = results.get("n-shot", {}).get(name, "")
        count = results.get("n-samples", {}).get(name, {}).get("effective", "")
        for key, value in values.items():
            metric, _, which = key.partition(",")
            if not which or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{which}", "")
            label = metric if which == "none" else f"{metric} ({which})"
            out.append([name, shots, count, label, float(value), error if isinstance(error, float) else ""])
    return out
