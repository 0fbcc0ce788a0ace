"""Scores on downstream tasks beside the loss, at each checkpoint that was scored: tables and a picture."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.evaluation.correlation import rank_correlation
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.evaluation import prefix
from jaxpt.evaluation.noise import LEAST, Noise, noise_of
from jaxpt.reporting.page import html_table
from jaxpt.reporting.series import Records
from jaxpt.reporting.stages import Table
from jaxpt.training import followed
from jaxpt.training.config import RunConfig

STDERR = "_stderr"
LOSSES = 10  # records of the training loss, up to the checkpoint, whose mean stands beside its scores
MOST = 40  # rows of the table of checkpoints
BITS = "bits_per_byte"  # of the right answers: lower is better, and beyond what accuracies share an axis with


@dataclass(frozen=True)
class ScoredStep:
    """What is known at a step that was scored; `scores` and `stderrs` by name."""

    step: int
    stage: str
    tokens: int | None
    loss: float  # mean of the last training losses of the stage up to here; nan: none
    held_out: float  # mean of the held-out sets, bits per byte; nan: none
    scores: Mapping[str, float]
    stderrs: Mapping[str, float] = field(default_factory=dict)


def score_entries(workdir: Path, config: RunConfig) -> list[str]:
    """Returns the entries whose values are scores on tasks: those of the config, and those of followers."""
    own = [name for name, entry in config.evaluations.items() if isinstance(entry, Downstream)]
    return list(dict.fromkeys([*own, *followed.entries(workdir)]))


def scored_steps(records: Records, entries: Sequence[str]) -> list[ScoredStep]:
    """Returns every step with a score, ascending; of several entries a score's name begins with the entry."""
    at: dict[int, dict[str, Any]] = {}
    for record in records:
        at.setdefault(record["step"], {}).update(record)
    trained = [r for r in records if "stage" in r and "train/loss" in r]
    out = []
    for step, record in sorted(at.items()):
        found = {
            name_of(entry, name.removeprefix(prefix(entry)), entries): float(value)
            for entry in entries
            for name, value in record.items()
            if name.startswith(prefix(entry)) and isinstance(value, int | float)
        }
        if not found:
            continue
        stage = next((r["stage"] for r in trained if r["step"] >= step), trained[-1]["stage"] if trained else "")
        losses = [r["train/loss"] for r in trained if r["step"] <= step and r["stage"] == stage][-LOSSES:]
        bits = [v for name, v in record.items() if name.startswith("eval/bpb/") and isinstance(v, int | float)]
        out.append(
            ScoredStep(
                step,
                stage,
                record.get("tokens"),
                _mean(losses),
                _mean(bits),
                {n: v for n, v in found.items() if not n.endswith(STDERR)},
                {n.removesuffix(STDERR): v for n, v in found.items() if n.endswith(STDERR)},
            )
        )
    return out


def name_of(entry: str, score: str, entries: Sequence[str]) -> str:
    """Returns what a score is called: with its entry where there are several."""
    return f"{entry}/{score}" if len(entries) > 1 else score


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def names_of(steps: Sequence[ScoredStep]) -> list[str]:
    """Returns the names of all scores."""
    return list(dict.fromkeys(name for s in steps for name in s.scores))


def by_checkpoint(steps: Sequence[ScoredStep], kept: Sequence[int] = ()) -> Table:
    """Returns head and rows: losses and scores side by side; of many steps `MOST`, those in `kept` among them."""
    names, stride = names_of(steps), max(1, math.ceil(len(steps) / MOST))
    some = [s for i, s in enumerate(steps) if s.step in kept or (len(steps) - 1 - i) % stride == 0]
    held = any(not math.isnan(s.held_out) for s in steps)
    rows = []
    for s in some:
        row = [f"{s.step:,}{' ★' if s.step in kept else ''}", s.stage, "" if s.tokens is None else f"{s.tokens:,}"]
        row += [_shown(s.loss), *([_shown(s.held_out)] if held else [])]
        for name in names:
            error = s.stderrs.get(name, math.nan)
            plus = "" if math.isnan(error) else f" ± {error:.2g}"
            row.append(f"{_shown(s.scores[name])}{plus}" if name in s.scores else "")
        rows.append(row)
    head = ["step", "stage", "tokens", "training loss", *(["held-out bits per byte"] if held else [])]
    return [*head, *(name.replace("/", " ") for name in names)], rows


def by_stage(steps: Sequence[ScoredStep], lower: Sequence[str]) -> Table:
    """Returns head and rows: of each stage the loss and every score, at first, at best and at last.

    `lower` are the scores of which less is better, as it is of the loss.
    """
    rows = []
    for stage in dict.fromkeys(s.stage for s in steps):
        mine = [s for s in steps if s.stage == stage]
        curves = {"training loss": [(s.step, s.loss) for s in mine if not math.isnan(s.loss)]}
        curves |= {n: [(s.step, s.scores[n]) for s in mine if n in s.scores] for n in names_of(mine)}
        for name, curve in curves.items():
            if curve:
                less = name == "training loss" or name in lower
                best = (min if less else max)(curve, key=lambda p: p[1])
                cells = [f"{value:.4g} (step {step:,})" for step, value in (curve[0], best, curve[-1])]
                rows.append([stage, name.replace("/", " "), *cells])
    return ["stage", "", "first", "best", "last"], rows


def reliability(steps: Sequence[ScoredStep]) -> Table:
    """Returns head and rows: each score's rank correlation with the losses, its noise, and on how much they rest."""
    held = any(not math.isnan(s.held_out) for s in steps)
    rows = []
    for name in names_of(steps):
        mine = [s for s in steps if name in s.scores]
        row = [name.replace("/", " "), str(len(mine))]
        for losses in [[s.loss for s in mine], *([[s.held_out for s in mine]] if held else [])]:
            pairs = [(loss, s.scores[name]) for loss, s in zip(losses, mine) if not math.isnan(loss)]
            rho = rank_correlation([a for a, _ in pairs], [b for _, b in pairs]) if len(pairs) >= LEAST else math.nan
            row.append("" if math.isnan(rho) else f"{rho:+.2f} ({len(pairs)} points)")
        noise = noise_of([s.scores[name] for s in mine])
        row += ["", "", ""] if noise is None else _noise(noise)
        rows.append(row)
    with_loss = ["ρ with training loss", *(["ρ with held-out bits per byte"] if held else [])]
    return ["", "checkpoints", *with_loss, "noise", "spread over the run", "spread / noise"], rows


def _noise(of: Noise) -> list[str]:
    if not of.noise:
        return [f"none seen (last {of.last} equal)", f"{of.signal:.2%}", ""]
    return [f"{of.noise:.2%} (last {of.last})", f"{of.signal:.2%}", f"{of.ratio:.1f}"]


def section(workdir: Path, records: Records, entries: Sequence[str]) -> list[str]:
    """Returns the parts of the page, none where nothing was scored; its picture is in `score_pictures`."""
    steps = scored_steps(records, entries)
    if not steps:
        return []
    best = marks.best_of(workdir, finished_steps(workdir))
    kept = [
        [f"{workdir.name}@best/{k.entry}/{one.stage}", f"{one.step:,}", k.metric, f"{one.value:.4g}"] for k, one in best
    ]
    lower = [name for name in names_of(steps) if name.endswith(BITS)]
    lower += [name_of(k.entry, k.metric, entries) for k, _ in best if not k.higher_is_better]
    shown = by_checkpoint(steps, [one.step for _, one in best])
    few = f" {len(shown[1])} of {len(steps)} checkpoints." if len(shown[1]) < len(steps) else ""
    star = " ★: kept as the best of its stage." if kept else ""
    table_of_kept = html_table(["checkpoint", "step", "best by", "value"], kept)
    return [
        f"<h2>Scores beside the loss</h2>{html_table(*shown)}",
        f"<p>Training loss: mean of up to {LOSSES} records of the stage up to the checkpoint.{few}{star}</p>",
        f"<h2>Scores by stage</h2>{html_table(*by_stage(steps, lower))}",
        f"<h2>Best checkpoints, kept</h2>{table_of_kept}" if kept else "",
        f"<h2>How far the scores can be trusted</h2>{html_table(*reliability(steps))}",
        f"<p>{html.escape(NOTE)}</p>",
    ]


NOTE = (
    "ρ: Spearman's rank correlation over the checkpoints. A loss that tells of a score of which more is better has one "
    "near -1. Stages with other data have other training losses; held-out text compares across them. Noise: relative "
    "standard deviation over the last checkpoints, with what the score still gained meanwhile; it is itself known to a "
    "half from 3 checkpoints, to a third from 5. Spread: largest less smallest, relative to the mean of the last. "
    "A difference between two checkpoints of less than about three times the noise may be chance."
)
