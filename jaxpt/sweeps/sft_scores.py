"""Scores before and after a fine-tune: how they are kept, one table of them, and how they go together."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.evaluation.correlation import rank_correlation
from jaxpt.files.partial import whole_file
from jaxpt.sweeps.sft_probe import ProbedModel

FEWEST = 3  # points of a rank correlation: two always give 1 or -1
TableOfScores = tuple[list[str], list[list[object]]]


@dataclass(frozen=True)
class ProbeScore:
    """A score: `stderr` is None where the task has none, `documents` how many were scored."""

    task: str
    metric: str
    value: float
    stderr: float | None
    documents: int


@dataclass(frozen=True)
class ProbeResult:
    """A model's scores before and after, and its losses at the fine-tune's beginning and end.

    The losses are nats per token that the assistant wrote, of the first record and the mean over the last tenth; None
    where the config logs none.
    """

    model: ProbedModel
    base: Sequence[ProbeScore]
    after: Sequence[ProbeScore]
    sft_loss: tuple[float, float] | None

    def pairs(self) -> dict[tuple[str, str], tuple[ProbeScore, ProbeScore]]:
        """Returns (before, after) of each (task, metric) that both have."""
        after = {(s.task, s.metric): s for s in self.after}
        return {key: (s, after[key]) for s in self.base if (key := (s.task, s.metric)) in after}


@dataclass(frozen=True)
class ProbeCorrelation:
    """Spearman's rho of two series over models; None where there are too few points, or all of a side are equal."""

    task: str
    metric: str
    of: str
    rho: float | None
    points: int

    @property
    def note(self) -> str:
        """Why there is none; empty where there is."""
        if self.rho is not None:
            return ""
        return "too few points" if self.points < FEWEST else "all are equal on one side"


def scores_of(rows: Sequence[Sequence[Any]], groups: Mapping[str, Sequence[str]]) -> list[ProbeScore]:
    """Returns the scores of an evaluation's table (`evaluating.rows`); of a group its own, not those of its members.

    Rows over all documents stand before those over some of them.
    """
    inside = {member for members in groups.values() for member in members}
    documents = {task: int(count or 0) for task, _, count, _, _, _ in reversed(rows)}
    for group, members in groups.items():
        documents[group] = documents.get(group) or sum(documents.get(member, 0) for member in members)
    return [
        ProbeScore(task, metric, value, error if isinstance(error, float) else None, int(count or documents[task]))
        for task, _, count, metric, value, error in rows
        if task not in inside
    ]


def correlations(results: Sequence[ProbeResult]) -> list[ProbeCorrelation]:
    """Returns for each score: base with after, and the training loss with each, over the models that have both."""
    out = []
    of: dict[str, Callable[[ProbeResult, ProbeScore, ProbeScore], tuple[float | None, float]]] = {
        "base, after": lambda r, base, after: (base.value, after.value),
        "loss, base": lambda r, base, after: (r.model.loss, base.value),
        "loss, after": lambda r, base, after: (r.model.loss, after.value),
    }
    for key in dict.fromkeys(key for r in results for key in r.pairs()):
        for name, take in of.items():
            both = [take(r, *r.pairs()[key]) for r in results if key in r.pairs()]
            points = [(x, y) for x, y in both if x is not None]
            rho = rank_correlation([x for x, _ in points], [y for _, y in points]) if len(points) >= FEWEST else None
            out.append(ProbeCorrelation(*key, name, None if rho is None or math.isnan(rho) else rho, len(points)))
    return out


def score_table(results: Sequence[ProbeResult]) -> TableOfScores:
    """Returns head and rows: a line per model and score."""
    head = ["model", "tokens", "training loss", "SFT loss", "task", "metric", "documents"]
    head += ["base", "±", "after SFT", "±", "change"]
    rows: list[list[object]] = []
    for r in results:
        m, losses = r.model, "" if r.sft_loss is None else f"{r.sft_loss[0]:.3f} to {r.sft_loss[1]:.3f}"
        first: list[object] = [m.name, "" if m.tokens is None else m.tokens, "" if m.loss is None else m.loss]
        for (task, metric), (a, b) in r.pairs().items():
            errors = ["" if s.stderr is None else s.stderr for s in (a, b)]
            scores = [a.value, errors[0], b.value, errors[1], b.value - a.value]
            rows.append([*first, losses, task, metric, a.documents, *scores])
    return head, rows


def correlation_table(found: Sequence[ProbeCorrelation]) -> TableOfScores:
    """Returns head and rows: a line per score and pair of series."""
    rows: list[list[object]] = [
        [c.task, c.metric, c.of, "" if c.rho is None else f"{c.rho:+.3f}", c.points, c.note] for c in found
    ]
    return ["task", "metric", "rank correlation of", "Spearman's rho", "points", ""], rows


def markdown(table: TableOfScores) -> str:
    """Returns a table as Markdown; numbers as on the screen."""
    head, rows = table

    def cell(x: object) -> str:
        text = f"{x:,}" if isinstance(x, int) else f"{x:.4g}" if isinstance(x, float) else str(x)
        return " ".join(text.split()).replace("|", "\\|")

    lines = [list(head), *([cell(x) for x in row] for row in rows)]
    lines.insert(1, ["---"] * len(head))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(folder: Path, results: Sequence[ProbeResult], found: Sequence[ProbeCorrelation]) -> Path:
    """Writes `results.json` and `results.md`; returns the second. Both say nothing of when they were made."""
    kept = {"models": [_plain(r) for r in results], "correlations": [dataclasses.asdict(c) for c in found]}
    tables = [markdown(score_table(results)), markdown(correlation_table(found))]
    write_json(folder / "results.json", kept)
    page = folder / "results.md"
    with whole_file(page, page.with_suffix(".md.tmp")) as temporary:
        temporary.write_text("\n".join(tables), encoding="utf-8")
    return page


def _plain(result: ProbeResult) -> dict[str, Any]:
    return {"model": dataclasses.asdict(result.model), **score_json(result)}


def score_json(result: ProbeResult) -> dict[str, Any]:
    """Returns a result's scores and losses as plain values."""
    lists = {n: [dataclasses.asdict(s) for s in getattr(result, n)] for n in ("base", "after")}
    return {**lists, "sft_loss": result.sft_loss}


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_kept(path: Path) -> dict[str, Any] | None:
    """Returns what a finished part of a probe wrote; None where there is no file.

    Raises:
        JaxptError: the file is not what this command writes.
    """
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(kept, dict)
    except (ValueError, AssertionError) as error:
        raise JaxptError(f"{path} is damaged; remove it, and that part is done again") from error
    return kept
