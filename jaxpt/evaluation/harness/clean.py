"""Scores without the items that training sources hold, beside those of all items: from the records of each document.

Nothing is computed by a model again. A document of a task is found among the items that were looked for by the digest
of its text (`jaxpt.data.contamination`); it counts as clean only if it was found there, could be checked, and is held
by no source. A task of which not one document is found has no clean score, and that is said.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.metrics import (
    aggregate_subtask_metrics,
    mean,
    pooled_sample_stderr,
    stderr_for_metric,
    unweighted_mean_stderr,
)
from lm_eval.api.registry import get_aggregation, get_metric_aggregation
from lm_eval.api.task import Task
from lm_eval.utils import handle_non_serializable

from jaxpt.cli.terminal import table
from jaxpt.data.contamination import Contamination, digest_of, item_text
from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness.comparing import read_samples
from jaxpt.evaluation.harness.evaluating import Results, gold_bits_per_byte
from jaxpt.evaluation.harness.quiet import quiet_lm_eval
from jaxpt.evaluation.option_names import FLAGS
from jaxpt.files.partial import whole_file

OPTION = FLAGS["contaminated"]
KEY = "clean"  # of what is added to results
BOOTSTRAP = 1000  # draws, as `evaluating.evaluate` asks lm_eval for
HELD, UNCHECKED, UNKNOWN, CLEAN = "held", "not checked", "not in the files", "clean"


@dataclass
class Verdicts:
    """What is known of one task's documents: of each by number, of all in counts, and who holds how many."""

    of: dict[int, str] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)  # files that know none of the task's documents

    @property
    def matched(self) -> bool:
        """Whether any document was found among the items that were looked for."""
        return any(verdict != UNKNOWN for verdict in self.of.values())

    @property
    def clean(self) -> list[int]:
        """The numbers of the clean documents."""
        return [number for number, verdict in self.of.items() if verdict == CLEAN]

    def count(self, verdict: str) -> int:
        """Returns how many documents have a verdict."""
        return sum(v == verdict for v in self.of.values())


def judge(documents: Mapping[int, Mapping[str, Any]], files: Sequence[Contamination]) -> Verdicts:
    """Returns what `files` know of a task's documents.

    A file that knows none of them has nothing to say of the task; of the others each must know a document, and none
    hold it, for it to be clean.

    Args:
        documents: by number.
        files: at least one.
    """
    out = Verdicts(dict.fromkeys(documents, UNKNOWN))
    digests = {f.fields: {n: digest_of(item_text(d, f.fields)) for n, d in documents.items()} for f in files}
    speaking = [f for f in files if not f.known.isdisjoint(digests[f.fields].values())]
    out.silent = [f.name for f in files if f not in speaking]
    for number in documents if speaking else ():
        mine = [(f, digests[f.fields][number]) for f in speaking]
        holders = {source for f, digest in mine for source in f.held.get(digest, ())}
        out.sources.update(holders)
        if holders:
            out.of[number] = HELD
        elif any(digest in f.unchecked for f, digest in mine):
            out.of[number] = UNCHECKED
        elif all(digest in f.known for f, digest in mine):
            out.of[number] = CLEAN
    return out


def check(tasks: Iterable[Task | Group | str], files: Sequence[Contamination], option: str = OPTION) -> dict[str, bool]:
    """Returns whether each task and group will have clean scores, before a model computes anything.

    A task has some if any of its documents is among the items, a group if all of its tasks have.

    Args:
        tasks: from `evaluating.find_tasks`.
        files: at least one.
        option: what messages call `files`.

    Raises:
        JaxptError: no document of any task is among the items; it names the sets of the files and the fields that the
            documents have.
    """
    names, document = [], None
    out: dict[str, bool] = {}
    for task in tasks:
        leaves = [t for t in (task.get_all_tasks() if isinstance(task, Group) else [task]) if isinstance(t, Task)]
        for leaf in leaves:
            documents = dict(enumerate(leaf.eval_docs))
            names.append(str(leaf.get_config("task")))
            document = document or documents.get(0)
            out[names[-1]] = judge(documents, files).matched
        if isinstance(task, Group):
            out[task.name] = all(out[str(leaf.get_config("task"))] for leaf in leaves)
    if not any(out.values()):
        raise JaxptError(_unmatched(", ".join(names), document, files, option))
    return out


def _unmatched(task: str, document: Mapping[str, Any] | None, files: Sequence[Contamination], option: str) -> str:
    wanted = {name: None for f in files for name in f.fields}
    there = ", ".join(document) if isinstance(document, Mapping) else "none"
    sets = ", ".join(f"{name} ({len(s.digests):,} items)" for f in files for name, s in f.sets.items())
    missing = [name for name in wanted if isinstance(document, Mapping) and name not in document]
    lack = f"the documents have no field {', '.join(missing)} but {there}; " if missing else ""
    return (
        f"{option}: no document of {task} is an item of {sets}, by the text of {', '.join(wanted)}; {lack}"
        f"decontaminate with the files that the task reads, and name fields that its documents have by --eval_fields"
    )


def add_clean(results: Results, files: Sequence[Contamination], option: str = OPTION) -> list[str]:
    """Adds `clean` to results: of each task and group the scores over clean documents, and what is known of all.

    Args:
        results: from `evaluating.evaluate`, or `read_results`; with samples.
        files: what sources hold.
        option: what messages call `files`.

    Returns:
        Lines for the user: tasks and scores that have no clean counterpart, and why.

    Raises:
        JaxptError: no document of any task is among the items.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm_eval's bootstrap would fork a process that has JAX's threads
    said: list[str] = []
    tasks: dict[str, Any] = {}
    samples = results["samples"]
    for name, records in samples.items():
        verdicts = judge({s["doc_id"]: s["doc"] for s in records}, files)
        entry: dict[str, Any] = {
            "documents": len(verdicts.of),
            "verdicts": {v: verdicts.count(v) for v in (CLEAN, HELD, UNCHECKED, UNKNOWN)},
            "sources": dict(sorted(verdicts.sources.items())),
            "held": [n for n, v in verdicts.of.items() if v == HELD],
            "left_out": [n for n, v in verdicts.of.items() if v != CLEAN],
        }
        tasks[name] = entry
        if not verdicts.matched:
            said.append(f"{name} has no clean score: none of its {len(verdicts.of):,} documents is in the files")
            continue
        said += [f"{file} has no item of {name}: its sources were not searched for them" for file in verdicts.silent]
        if unknown := verdicts.count(UNKNOWN):
            said.append(f"{name}: {unknown:,} documents are not in the files; they do not count as clean")
        entry["scores"], left_out = _scores(results, name, records, set(verdicts.clean))
        said += left_out
    if not any("scores" in entry for entry in tasks.values()):
        first = next((r[0]["doc"] for r in samples.values() if r), None)
        raise JaxptError(_unmatched(", ".join(samples), first, files, option))
    groups = {}
    for group in results.get("group_subtasks", {}):
        if group not in samples and group in results["results"]:
            groups[group], left_out = _group(results, group, tasks)
            said += left_out
    about = [
        {"file": f.name, "fields": list(f.fields), "rules": dict(f.rules), "sources": dict(f.sources)} for f in files
    ]
    results[KEY] = {"files": about, "tasks": tasks, "groups": groups}
    return said


def _scores(
    results: Results, task: str, records: Sequence[Mapping[str, Any]], clean: set[int]
) -> tuple[dict[str, float | str], list[str]]:
    """Returns `METRIC,FILTER` and `METRIC_stderr,FILTER` over the clean documents, and lines about what is left out."""
    out: dict[str, float | str] = {}
    said = []
    values: dict[str, list[tuple[int, Any]]] = {}
    for sample in records:
        for metric in sample["metrics"]:
            values.setdefault(f"{metric},{sample['filter']}", []).append((sample["doc_id"], sample[metric]))
    once = {s["doc_id"]: s for s in reversed(records)}  # as results have them: whatever the filters
    reported = results["results"][task]
    own = "bits_per_byte,none"  # what jaxpt adds, unless the task has such a metric of its own
    if own in values:
        own = ""
    elif own in reported:
        bits = [(n, b) for n, s in sorted(once.items()) if (b := gold_bits_per_byte(s)) is not None]
        values[own] = bits
    for key, pairs in values.items():
        metric, _, which = key.partition(",")
        aggregation = mean if key == own else _aggregation(results, task, metric)
        if aggregation is None or not _gives(aggregation, [v for _, v in pairs], reported.get(key)):
            said.append(f"{task}: {metric} has no clean score: it cannot be computed from the documents' records")
            continue
        kept = [v for n, v in pairs if n in clean]
        if kept:
            error = stderr_for_metric(aggregation, BOOTSTRAP)
            out[key] = float(aggregation(kept))
            with quiet_lm_eval():
                out[f"{metric}_stderr,{which}"] = float(error(kept)) if error and len(kept) > 1 else "N/A"
    return out, said


def _aggregation(results: Results, task: str, metric: str) -> Callable[[list[Any]], Any] | None:
    """Returns the function that makes a score of documents' values, None where it is not known by a name."""
    for entry in results.get("configs", {}).get(task, {}).get("metric_list") or ():
        if entry.get("metric") == metric and "aggregation" in entry:
            return get_aggregation(entry["aggregation"]) if isinstance(entry["aggregation"], str) else None
    try:
        known = get_metric_aggregation(metric)
    except KeyError:
        known = None
    return known or mean  # as lm_eval does; that it gives the reported score is checked


def _gives(aggregation: Callable[[list[Any]], Any], values: list[Any], reported: Any) -> bool:
    try:
        return _same(aggregation(values), reported)
    except (TypeError, ValueError):  # it takes other values than a record has
        return False


def _same(a: Any, b: Any) -> bool:
    return (
        isinstance(a, (int, float)) and isinstance(b, (int, float)) and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    )


def _leaves(results: Results, group: str) -> list[str]:
    """The tasks under a group, those of its groups too."""
    inner = results["group_subtasks"]
    return [t for child in inner[group] for t in (_leaves(results, child) if child in inner else [child])]


def _group(results: Results, group: str, tasks: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns a group's clean scores, made of its tasks' as lm_eval makes those of all documents."""
    leaves = _leaves(results, group)
    counts = Counter[str]()
    sources = Counter[str]()
    for leaf in leaves:
        counts.update(tasks[leaf]["verdicts"])
        sources.update(tasks[leaf]["sources"])
    entry: dict[str, Any] = {
        "documents": sum(tasks[leaf]["documents"] for leaf in leaves),
        "verdicts": dict(counts),
        "sources": dict(sorted(sources.items())),
    }
    without = [leaf for leaf in leaves if "scores" not in tasks[leaf]]
    if without:
        return entry, [f"{group} has no clean score: {', '.join(without[:5])} of it have none"]
    entry["scores"], said = {}, []
    scores: tuple[float, float | str] | tuple[()] | None
    for key, reported in results["results"][group].items():
        metric, _, which = key.partition(",")
        if not which or metric.endswith("_stderr") or not isinstance(reported, (int, float)):
            continue
        if metric == "bits_per_byte":
            scores = _pooled_bits(results, leaves, tasks)
        else:
            scores = _combined(results, key, reported, leaves, tasks)
        if scores is None:
            said.append(f"{group}: {metric} has no clean score: it is no mean over the group's tasks")
        else:
            entry["scores"] |= dict(zip((key, f"{metric}_stderr,{which}"), scores)) if scores else {}
    return entry, said


def _combined(
    results: Results, key: str, reported: float, leaves: Sequence[str], tasks: Mapping[str, Any]
) -> tuple[float, float | str] | tuple[()] | None:
    """Returns a group's clean score and its error: () without a clean document, None if it is no mean over tasks.

    Whether tasks weigh by their documents is what gives the score over all documents; by documents where both do.
    """
    every = [results["results"][leaf] for leaf in leaves]
    sizes = [int(e.get("sample_len", results["n-samples"][leaf]["effective"])) for leaf, e in zip(leaves, every)]
    if any(key not in e for e in every):
        return None
    whole = [e[key] for e in every]
    weighted = next((w for w in (True, False) if _same(aggregate_subtask_metrics(whole, sizes, w), reported)), None)
    if weighted is None:
        return None
    having = [tasks[leaf] for leaf in leaves if key in tasks[leaf]["scores"]]
    if not having:
        return ()
    metric, _, which = key.partition(",")
    values = [e["scores"][key] for e in having]
    errors = [e["scores"][f"{metric}_stderr,{which}"] for e in having]
    amounts = [e["verdicts"][CLEAN] for e in having]
    error: float | str = "N/A"
    if "N/A" not in errors:
        error = float(pooled_sample_stderr(errors, amounts) if weighted else unweighted_mean_stderr(errors))
    return float(aggregate_subtask_metrics(values, amounts, weighted)), error


def _pooled_bits(
    results: Results, leaves: Sequence[str], tasks: Mapping[str, Any]
) -> tuple[float, float | str] | tuple[()]:
    """Returns the mean over all clean documents of a group's tasks, as `evaluating.mean_over_members` over all."""
    values = []
    for leaf in leaves:
        out = set(tasks[leaf]["left_out"])
        once = {s["doc_id"]: s for s in results["samples"][leaf] if s["doc_id"] not in out}  # whatever the filters
        values += [b for s in once.values() if (b := gold_bits_per_byte(s)) is not None]
    if not values:
        return ()
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else "N/A"
    return float(np.mean(values)), error


def clean_rows(results: Results) -> list[list[object]]:
    """Returns rows as `evaluating.rows`, of the scores over clean documents; their metrics end in `, clean`."""
    out: list[list[object]] = []
    for name, entry in {**results[KEY]["tasks"], **results[KEY]["groups"]}.items():
        scores, shots = entry.get("scores", {}), results.get("n-shot", {}).get(name, "")
        for key, value in scores.items():
            metric, _, which = key.partition(",")
            if not metric.endswith("_stderr"):
                label = metric if which == "none" else f"{metric} ({which})"
                error = _number(scores.get(f"{metric}_stderr,{which}"))
                out.append([name, shots, entry["verdicts"][CLEAN], f"{label}, {KEY}", value, error])
    return out


def clean_documents(folder: Path, files: Sequence[Contamination]) -> dict[str, set[str]]:
    """Returns of each task of a folder of results the digests (`doc_hash`) of its clean documents, none where none is
    among the items; of the newest samples.

    Raises:
        JaxptError: no document of any task is among the items.
    """
    out, first = {}, None
    for task, records in read_samples(folder).items():
        verdicts = judge(dict(enumerate(r["doc"] for r in records)), files)
        first = first or records[0]["doc"]
        if verdicts.matched:
            out[task] = {str(records[number]["doc_hash"]) for number in verdicts.clean}
    if not out:
        raise JaxptError(_unmatched(f"the tasks of {folder}", first, files, OPTION))
    return out


def tables(results: Results) -> str:
    """Returns what is known of each task's documents, and its scores over all and over clean ones, as text."""
    entries = {**results[KEY]["tasks"], **results[KEY]["groups"]}
    documents, scores = [], []
    for name in (n for n in results["results"] if n in entries):
        entry, values = entries[name], results["results"][name]
        holders = ", ".join(f"{source} {count:,}" for source, count in entry["sources"].items())
        documents.append([name, entry["documents"], *entry["verdicts"].values(), holders])
        for key, value in values.items():
            metric, _, which = key.partition(",")
            if not which or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            label, error = metric if which == "none" else f"{metric} ({which})", f"{metric}_stderr,{which}"
            pair = [(v.get(key, "-"), _number(v.get(error))) for v in (values, entry.get("scores", {}))]
            counts = entry["documents"], entry["verdicts"][CLEAN] if "scores" in entry else "-"
            scores.append([name, label, counts[0], *pair[0], counts[1], *pair[1]])
    head = ["task", "documents", CLEAN, HELD, UNCHECKED, UNKNOWN, "held by"]
    both = ["task", "metric", "documents", "all", "±", "clean ones", "clean", "± "]
    searched = ", ".join(f"{n} ({c:,} documents)" for f in results[KEY]["files"] for n, c in f["sources"].items())
    return f"{table(head, documents)}\nsearched: {searched}\n\n{table(both, scores)}"


def _number(value: Any) -> float | str:
    return value if isinstance(value, float) else ""


def read_results(folder: Path) -> tuple[Results, Path]:
    """Returns the newest results in a folder with their samples, and their file.

    Raises:
        JaxptError: there are none, or a file is broken or missing.
    """
    files = sorted(folder.glob("results_*.json"))
    if not files:
        raise JaxptError(f"{folder} has no results_DATE.json; give the --output of jaxpt eval")
    date = files[-1].stem.removeprefix("results_")
    try:
        results: Results = json.loads(files[-1].read_text(encoding="utf-8"))
        leaves = [n for n in results["results"] if n in results["configs"]]
        results["samples"] = {}
        for name in leaves:
            with (folder / f"samples_{name}_{date}.jsonl").open(encoding="utf-8") as lines:
                results["samples"][name] = [json.loads(line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise JaxptError(f"{files[-1]} and its samples cannot be read ({reason}); evaluate again") from error
    return results, files[-1]


def rewrite(results: Results, file: Path) -> None:
    """Writes a file of results again, with what was added to it; the samples stay as they are."""
    whole = {key: value for key, value in results.items() if key != "samples"}
    with whole_file(file, file.with_suffix(".tmp")) as new:
        text = json.dumps(whole, indent=2, default=handle_non_serializable, ensure_ascii=False)
        new.write_text(text, encoding="utf-8")
