"""Tasks that are read from local files: a task of `lm_eval` in a YAML file, and where its records are."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from lm_eval.api.group import AggMetricConfig, Group
from lm_eval.api.task import ConfigurableTask

from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.harness import records

SHIPPED = Path(__file__).parent / "tasks"
OWN_KEYS = {"files", "by", "about", "optional", "subject_names"}


class LocalTask(ConfigurableTask):
    """A task of lm_eval whose splits are given, not loaded."""

    VERSION = 1

    def __init__(self, config: dict[str, Any], splits: Mapping[str, list[records.EvaluationRecord]]):
        """Takes the task's configuration, as in lm_eval's YAML files, and the records of each split."""
        self._splits = splits
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Makes the splits data sets."""
        self.dataset = {name: Dataset.from_list(rows) for name, rows in self._splits.items()}


def shipped() -> dict[str, Path]:
    """Returns the files of the tasks that come with jaxpt, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}


def read_config(file: Path) -> dict[str, Any]:
    """Returns a task file as a dict.

    Raises:
        JaxptError: it is no YAML, or lacks `task`, `files` or `output_type`.
    """
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise JaxptError(f"task file {file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise JaxptError(f"task file {file} holds no mapping; docs/evaluation.md shows one")
    if missing := [key for key in ("task", "files", "output_type") if key not in config]:
        raise JaxptError(f"task file {file} lacks {', '.join(missing)}; docs/evaluation.md shows one")
    if not isinstance(config["files"], dict):
        raise JaxptError(f"task file {file}: files is not a mapping of splits to names, as in {{test: my_questions}}")
    return config


def local_task(file: Path, data: Path | None) -> LocalTask | Group:
    """Returns the task of a file, or a group with one for each value of the field that `by` names.

    Args:
        file: YAML: keys of lm_eval's task files, `files` (split to one or several names), `optional` (splits that need
            not be there), `by`, and `subject_names` (what a description calls its values).
        data: folder that the names are looked up in; None: that of the file.

    Raises:
        JaxptError: a broken task file, files that are not there, records that do not fit the task.
    """
    config = read_config(file)
    by = config.get("by")
    splits = {}
    bare = {key: value for key, value in config.items() if key not in OWN_KEYS}
    for split, names in config["files"].items():
        try:
            path = records.find(data or file.parent, [names] if isinstance(names, str) else list(names))
        except JaxptError:
            if split not in config.get("optional", ()):
                raise
            bare = {key: value for key, value in bare.items() if value != split}
            continue
        splits[split] = records.read(path, split)
    if by is None:
        return _task(file, bare, splits)
    tested = next(split for split in splits if split in (bare.get("test_split"), bare.get("validation_split")))
    values = sorted({str(row[by]) for row in splits[tested] if by in row})
    if not values:
        raise JaxptError(f"task file {file}: no record has the field {by!r} that the tasks are made by")
    tasks = []
    for value in values:
        mine = {split: [row for row in rows if str(row.get(by)) == value] for split, rows in splits.items()}
        one = {**copy.deepcopy(bare), "task": f"{bare['task']}_{value}", "task_alias": value}
        if "description" in one:
            called = config.get("subject_names", {}).get(value, value.replace("_", " "))
            one["description"] = one["description"].replace("{subject}", called)
        tasks.append(_task(file, one, {split: rows for split, rows in mine.items() if rows}))
    metrics = [AggMetricConfig(metric=m["metric"], weight_by_size=True) for m in bare.get("metric_list", [])]
    group = Group(name=bare["task"], aggregate_metric_list=metrics)
    for task in tasks:
        group.add(task)
    return group


def _task(file: Path, config: dict[str, Any], splits: Mapping[str, list[records.EvaluationRecord]]) -> LocalTask:
    for key in ("fewshot_split", "test_split", "validation_split", "training_split"):
        if config.get(key) is not None and config[key] not in splits:
            raise JaxptError(
                f"task file {file}: {key} is {config[key]!r}, but there are records of {', '.join(splits)} only"
                f"{nearest(config[key], splits)}"
            )
    common = set.intersection(*(set(row) for rows in splits.values() for row in rows))
    kept = {split: [{k: row[k] for k in sorted(common)} for row in rows] for split, rows in splits.items()}
    try:
        return LocalTask(copy.deepcopy(config), kept)
    except Exception as error:
        raise JaxptError(f"task file {file}: lm_eval refuses it: {type(error).__name__}: {error}") from error
