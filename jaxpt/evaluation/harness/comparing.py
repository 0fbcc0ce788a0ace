"""Whether two models differ on the same questions by more than chance: paired tests over documents."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxpt.errors import JaxptError

TaskScores = Mapping[str, Mapping[str, float]]  # metric -> document -> score


class Difference(NamedTuple):
    """Of one metric over the documents that both answered: means, their difference b - a with its paired standard
    error, and the two-sided probability of one as large by chance (sign-flip permutation test)."""

    metric: str
    documents: int
    a: float
    b: float
    difference: float
    stderr: float
    p_value: float


def read_samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the newest samples of each task in a folder of results.

    Raises:
        JaxptError: no samples, or a line that is none.
    """
    files = sorted(folder.glob("samples_*_*.jsonl"))
    if not files:
        raise JaxptError(
            f"{folder} has no samples_TASK_DATE.jsonl; give two folders that jaxpt eval wrote with --output"
        )
    newest = {file.name.removeprefix("samples_").rpartition("_")[0]: file for file in files}  # dates sort
    out: dict[str, list[dict[str, Any]]] = {}
    for task, file in newest.items():
        out[task] = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                sample = json.loads(line)
                fits = {"doc_hash", "metrics", "doc"} <= sample.keys()
            except (ValueError, AttributeError):
                fits = False
            if not fits:
                raise JaxptError(f"{file}, line {number}: not a sample of lm_eval")
            out[task].append(sample)
    return out


def scores_of_documents(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns metric -> document -> score of a task's samples."""
    scores: dict[str, dict[str, float]] = {}
    for sample in samples:
        which = sample.get("filter", "none")
        for metric in sample["metrics"]:
            if isinstance(value := sample.get(metric), (int, float)):
                name = metric if which == "none" else f"{metric} ({which})"
                scores.setdefault(name, {})[str(sample["doc_hash"])] = float(value)
    return scores


def among(scores: TaskScores, documents: Collection[str], mark: str) -> dict[str, dict[str, float]]:
    """Returns the scores of some documents, the metrics marked so."""
    return {f"{m}, {mark}": {d: v for d, v in s.items() if d in documents} for m, s in scores.items()}


def compare(a: TaskScores, b: TaskScores, *, flips: int = 10_000, seed: int = 0) -> list[Difference]:
    """Returns the difference of each metric over the documents that are in both.

    Args:
        a: scores of one model on a task.
        b: those of another.
        flips: random sign flips of the permutation test; all of them where there are at most 13 documents that differ.
        seed: of the flips.
    """
    out = []
    for metric in [m for m in a if m in b]:
        both = sorted(a[metric].keys() & b[metric].keys())
        if not both:
            continue
        x, y = (np.array([s[metric][d] for d in both]) for s in (a, b))
        d = y - x
        stderr = float(np.std(d, ddof=1) / math.sqrt(len(d))) if len(d) > 1 else math.nan
        out.append(
            Difference(
                metric, len(both), float(x.mean()), float(y.mean()), float(d.mean()), stderr, flipped(d, flips, seed)
            )
        )
    return out


def flipped(d: np.ndarray, flips: int, seed: int) -> float:
    """Returns the share of sign flips of the differences `d [n]` whose sum is as far from zero as it is."""
    d = d[d != 0]
    if not len(d):
        return 1.0
    exact = len(d) <= 13
    if exact:
        signs = 1 - 2 * ((np.arange(1 << len(d))[:, None] >> np.arange(len(d))) & 1)
        sums = signs @ d
    else:
        rng = np.random.default_rng(seed)
        sums = np.concatenate([rng.choice([-1.0, 1.0], (500, len(d))) @ d for _ in range(max(1, flips // 500))])
    as_far = int(np.sum(np.abs(sums) >= abs(d.sum()) - 1e-12))
    return as_far / len(sums) if exact else (as_far + 1) / (len(sums) + 1)
