"""Tasks that are read from local files: a task of `lm_eval` in a YAML file, and where its records are."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from lm_eval.api.group import AggMetricConfig, Group
from lm_eval.api.task import ConfigurableTask

from jaxpt.cli.terminal import progress
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError, nearest
from jaxpt.evaluation.harness import records
from jaxpt.evaluation.harness.scorer import AnswerScorer
from jaxpt.evaluation.option_names import FLAGS, OptionNames

SHIPPED = Path(__file__).parent / "tasks"
LOOKUP_FORM = "{files: [NAME], key: KEY, field: OTHER}"
OWN_KEYS = {"files", "by", "about", "optional", "subject_names", "scorer", "between", "as_json", "lookup"}


class LocalTask(ConfigurableTask):
    """A task of lm_eval whose splits are given, not loaded; with a scorer, its answers are judged by that.

    `judges` False: another process reports, and nothing is judged here.
    """

    VERSION = 1

    def __init__(
        self,
        config: dict[str, Any],
        splits: Mapping[str, list[records.EvaluationRecord]],
        scorer: AnswerScorer | None = None,
    ):
        """Takes the task's configuration, as in lm_eval's YAML files, the records of each split, and a scorer."""
        self._splits, self.scorer, self.judges = splits, scorer, True
        if scorer is not None:
            every = {"name": "none", "filter": [{"function": "take_first_k", "k": scorer.answers}]}
            config = {"filter_list": [every], **config}
            config["repeats"], config["process_results"] = scorer.answers, self._scored
            config["metric_list"] = [
                {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in scorer.metrics
            ]
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Makes the splits data sets."""
        self.dataset = {name: Dataset.from_list(rows) for name, rows in self._splits.items()}

    def apply_filters(self) -> Any:
        """Applies the filters and gives all answers to the scorer."""
        out = super().apply_filters()
        if self.scorer is not None and self.judges:
            asked = [(i.doc, _texts(answers)) for i in self.instances for answers in i.filtered_resps.values()]
            with progress(len(asked), f"judging {self.task_name}", "doc") as bar:
                self.scorer.prepare(asked, lambda: bar.update(1))
        return out

    def _scored(self, document: records.EvaluationRecord, results: Sequence[Any]) -> dict[str, float]:
        assert self.scorer is not None
        if not self.judges:
            return dict.fromkeys(self.scorer.metrics, float("nan"))
        return self.scorer.score(document, _texts(results[0]))


def _texts(answers: str | Sequence[str]) -> list[str]:
    return [answers] if isinstance(answers, str) else list(answers)


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
    between = config.get("between", {})
    if not isinstance(between, dict) or not all(_is_range(value) for value in between.values()):
        raise JaxptError(f"task file {file}: between is not of the form {{test: {{task_id: [11, 510]}}}}")
    for split in between:
        if split not in config["files"]:
            hint = nearest(split, config["files"])
            raise JaxptError(f"task file {file}: between names {split!r}, files does not{hint}")
    as_json, lookup = config.get("as_json", []), config.get("lookup", {})
    if not isinstance(as_json, list) or not all(isinstance(field, str) for field in as_json):
        raise JaxptError(f"task file {file}: as_json is not a list of fields, as in [function]")
    if not isinstance(lookup, dict):
        raise JaxptError(f"task file {file}: lookup is not of the form {{FIELD: {LOOKUP_FORM}}}")
    return config


def _is_range(value: Any) -> bool:
    """Whether a value is a mapping of fields to two whole numbers each."""
    return isinstance(value, dict) and all(
        isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int) for end in ends)
        for ends in value.values()
    )


def local_task(file: Path, data: Path | None, names: OptionNames = FLAGS) -> LocalTask | Group:
    """Returns the task of a file, or a group with one for each value of the field that `by` names.

    Args:
        file: YAML: keys of lm_eval's task files, `files` (split to one or several names), `optional` (splits that need
            not be there), `between` (of a split the records with a field between two numbers), `as_json` (fields that
            become text), `lookup` (a field out of another file), `by`, `subject_names` (what a description calls its
            values), and `scorer` (name and options of an `AnswerScorer`).
        data: folder that the names are looked up in; None: that of the file.
        names: what messages call `data`.

    Raises:
        JaxptError: a broken task file, files that are not there, records that do not fit the task.
    """
    config = read_config(file)
    by, folder = config.get("by"), data or file.parent
    called = f"{folder}, the folder of {file.name} ({names['data']} names another)"
    called = called if data is None else f"{names['data']}={data}"
    splits = {}
    bare = {key: value for key, value in config.items() if key not in OWN_KEYS}
    for split, files in config["files"].items():
        try:
            path = records.find(folder, [files] if isinstance(files, str) else list(files), called=called)
        except JaxptError:
            if split not in config.get("optional", ()):
                raise
            bare = {key: value for key, value in bare.items() if value != split}
            continue
        splits[split] = records.read(path, split, config.get("between", {}).get(split), config.get("as_json", ()))
    for field, where in config.get("lookup", {}).items():
        _look_up(file, folder, called, field, where, splits)
    scorer = build(AnswerScorer, config["scorer"], f"task file {file}: scorer") if "scorer" in config else None
    if by is None:
        return _task(file, bare, splits, scorer)
    tested = next(split for split in splits if split in (bare.get("test_split"), bare.get("validation_split")))
    values = sorted({str(row[by]) for row in splits[tested] if by in row})
    if not values:
        raise JaxptError(f"task file {file}: no record has the field {by!r} that the tasks are made by")
    tasks = []
    for value in values:
        mine = {split: [row for row in rows if str(row.get(by)) == value] for split, rows in splits.items()}
        one = {**copy.deepcopy(bare), "task": f"{bare['task']}_{value}", "task_alias": value}
        if "description" in one:
            subject = config.get("subject_names", {}).get(value, value.replace("_", " "))
            one["description"] = one["description"].replace("{subject}", subject)
        tasks.append(_task(file, one, {split: rows for split, rows in mine.items() if rows}, scorer))
    means = [m["metric"] for m in bare.get("metric_list", [])] if scorer is None else scorer.metrics
    metrics = [AggMetricConfig(metric=name, weight_by_size=True) for name in means]
    group = Group(name=bare["task"], aggregate_metric_list=metrics)
    for task in tasks:
        group.add(task)
    return group


def _look_up(
    file: Path, data: Path, called: str, field: str, where: Any, splits: Mapping[str, list[records.EvaluationRecord]]
) -> None:
    """Gives each record, under `field`, the text that a file has under the record's own value of a key."""
    if not isinstance(where, dict) or where.keys() != {"files", "key", "field"}:
        raise JaxptError(
            f"task file {file}: lookup.{field} is not of the form {{files: [NAME], key: KEY, field: FIELD}}"
        )
    texts = records.lookup(data, where["files"], where["key"], where["field"], called)
    for row in (row for rows in splits.values() for row in rows):
        if (name := str(row.get(where["key"]))) not in texts:
            raise JaxptError(f"task file {file}: none of {', '.join(where['files'])} has {where['key']} {name!r}")
        row[field] = texts[name]


def _task(
    file: Path,
    config: dict[str, Any],
    splits: Mapping[str, list[records.EvaluationRecord]],
    scorer: AnswerScorer | None,
) -> LocalTask:
    for key in ("fewshot_split", "test_split", "validation_split", "training_split"):
        if config.get(key) is not None and config[key] not in splits:
            raise JaxptError(
                f"task file {file}: {key} is {config[key]!r}, but there are records of {', '.join(splits)} only"
                f"{nearest(config[key], splits)}"
            )
    common = set.intersection(*(set(row) for rows in splits.values() for row in rows))
    kept = {split: [{k: row[k] for k in sorted(common)} for row in rows] for split, rows in splits.items()}
    try:
        task = LocalTask(copy.deepcopy(config), kept, scorer)
    except Exception as error:
        raise JaxptError(f"task file {file}: lm_eval refuses it: {type(error).__name__}: {error}") from error
    if scorer is not None:
        _check_documents(file, task, scorer)
    return task


def _check_documents(file: Path, task: LocalTask, scorer: AnswerScorer) -> None:
    for number, document in enumerate(task.eval_docs):
        try:
            scorer.check(document)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise JaxptError(f"task file {file}: document {number} cannot be scored: {why}") from error
