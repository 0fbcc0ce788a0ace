"""Several runs in one page: their curves over tokens, how their configs differ, where each ended."""

import contextlib
import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxpt.checkpoints.run_files import WAY_OUT
from jaxpt.config.schema import build, plain
from jaxpt.errors import JaxptError
from jaxpt.files.digests import read_json
from jaxpt.files.partial import writes
from jaxpt.reporting.page import embedded, html_table, write_page
from jaxpt.reporting.series import Records, smooth
from jaxpt.reporting.stages import Table
from jaxpt.training.config import RunConfig
from jaxpt.training.followed import records_of

GROUPS = {  # what is drawn: metrics whose names begin so, a panel for each, and what they are
    "train/loss": ("training loss", "nats per token"),
    "train/loss/": ("training loss by source", "nats per token"),
    "eval/": ("evaluations", ""),
    "optim/learning_rate": ("learning rate", ""),
    "train/grad_norm": ("gradient norm before clipping", ""),
}
WIDE, HIGH, COLUMNS = 7.2, 3.6, 2  # inches of a picture of one panel; panels beside each other
LAST = 0.1  # of a run's tokens: whose training losses are averaged


@dataclass(frozen=True)
class ComparedRun:
    """A run as the comparison shows it: its name, its records that count tokens, its config as plain values."""

    name: str
    records: Records
    config: Mapping[str, Any]

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (tokens, values) of a metric, in the order in which they were logged."""
        known = [(r["tokens"], r[metric]) for r in self.records if isinstance(r.get(metric), int | float)]
        return np.array([t for t, _ in known]), np.array([float(v) for _, v in known])


def write_comparison(workdirs: Sequence[str | Path], output: str | Path) -> Path:
    """Writes `index.html` (self-contained) and its pictures as PNG files into the folder `output`.

    Raises:
        JaxptError: no run directory, nothing logged yet, or the same one twice.
    """
    runs = [_open(Path(path), name) for path, name in zip(workdirs, short_names([str(w) for w in workdirs]))]
    out = Path(output)
    with writes(out):
        out.mkdir(parents=True, exist_ok=True)
    images = [embedded(f, out / f"{name}.png") for name in GROUPS if (f := draw(runs, name)) for name in [_file(name)]]
    config = html_table(*config_differences(runs)) if len(runs) > 1 else ""
    parts = [
        f"<h2>Ends</h2>{html_table(*ends(runs))}",
        "<h2>Curves</h2>",
        '<div class="pictures">',
        *images,
        "</div>",
        f"<h2>Config, where it differs</h2>{config}",
        *(
            f"<p>{html.escape(run.name)}: {html.escape(str(path))}</p>"
            for run, path in zip(runs, workdirs)
            if run.name != str(path)
        ),
    ]
    return write_page(out / "index.html", f"{len(runs)} runs", f"{len(runs)} runs compared", parts)


def short_names(paths: Sequence[str]) -> list[str]:
    """Returns the paths without what all share at their beginning.

    Raises:
        JaxptError: two are the same.
    """
    whole = [os.path.abspath(path) for path in paths]
    if twice := next((p for p, w in zip(paths, whole) if whole.count(w) > 1), None):
        raise JaxptError(f"{twice} is given twice; name each run once")
    common = os.path.commonpath(whole) if len(whole) > 1 else os.path.dirname(whole[0])
    return [os.path.relpath(w, common) if w != common else os.path.basename(w) for w in whole]


def ends(runs: Sequence[ComparedRun]) -> Table:
    """Returns head and rows: a line per run with what it reached; the training loss is that of its last tenth."""
    names = sorted({n for run in runs for r in run.records for n in r if n.startswith("eval/")})
    rows = []
    for run in runs:
        last = run.records[-1]
        tokens, losses = run.curve("train/loss")
        end = losses[tokens > tokens[-1] * (1 - LAST)] if len(tokens) else np.array([])
        warm = [r["perf/tokens_per_s"] for r in run.records if "perf/tokens_per_s" in r and not r.get("perf/warmup")]
        flops = next((f"{r['flops']:.3g}" for r in reversed(run.records) if "flops" in r), "")
        cells = [run.name, f"{last['tokens']:,}", f"{last['step']:,}", flops]
        cells += [f"{end.mean():.4f}" if len(end) else "", f"{median(warm):,.0f}" if warm else ""]
        for name in names:
            values = run.curve(name)[1]
            cells.append(f"{values[-1]:.4f}" if len(values) else "")
        rows.append(cells)
    head = ["run", "tokens", "steps", "FLOPs", "training loss, last tenth", "tokens/s"]
    return [*head, *(name.removeprefix("eval/") for name in names)], rows


def config_differences(runs: Sequence[ComparedRun]) -> Table:
    """Returns head and rows: a line per key of which not all runs have the same value."""
    flat = [_leaves(run.config, [other.config for other in runs]) for run in runs]
    keys = dict.fromkeys(k for leaves in flat for k in leaves)
    differ = [key for key in keys if len({repr(leaves.get(key)) for leaves in flat}) > 1]
    rows = [[key, *(_shown(leaves[key]) if key in leaves else "" for leaves in flat)] for key in differ]
    return ["key", *(run.name for run in runs)], rows


def draw(runs: Sequence[ComparedRun], group: str) -> Figure | None:
    """Returns a group of `GROUPS` as panels over tokens, a line per run; None where no run logged it."""
    title, unit = GROUPS[group]
    names = list(dict.fromkeys(n for run in runs for r in run.records for n in r))
    shown = [n for n in names if (n.startswith(group) if group.endswith("/") else n == group)]
    shown = sorted(n for n in shown if any(len(run.curve(n)[0]) for run in runs))
    if not shown:
        return None
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(WIDE, HIGH if lines == 1 else 2.4 * lines), layout="constrained", squeeze=False
    )
    for axes, name in zip(grid.flat, shown):
        _panel(axes, runs, name)
        axes.set_title(name.removeprefix(group) or title, fontsize=10)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[: len(shown)][-columns:]:
        axes.set_xlabel("tokens", fontsize=9)
    figure.supylabel(unit, fontsize=9)
    if len(shown) > 1:
        figure.suptitle(title, fontsize=11)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _panel(axes: Axes, runs: Sequence[ComparedRun], name: str) -> None:
    palette = plt.get_cmap("tab10" if len(runs) <= 10 else "viridis")
    for i, run in enumerate(runs):
        color = palette(i) if len(runs) <= 10 else palette(i / (len(runs) - 1))
        tokens, values = run.curve(name)
        few = len(tokens) < 20
        if name.startswith("train/loss") and not few:
            axes.plot(tokens, values, lw=0.6, alpha=0.25, color=color)
            values = smooth(values, max(len(values) // 20, 1))
        axes.plot(tokens, values, lw=1.4, color=color, label=run.name, marker="o" if few else None, ms=3)
    if name == "train/grad_norm":
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _open(path: Path, name: str) -> ComparedRun:
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise JaxptError(f"{path} is not a run directory: it has no metrics.jsonl")
    records = [r for r in records_of(path) if "tokens" in r]
    if not records:
        raise JaxptError(f"{metrics} holds no records yet; report again after the first {metrics.name} line")
    values = read_json(path, "config.json", dict, WAY_OUT)
    with contextlib.suppress(JaxptError):  # it names, for instance, code of the user's own that is not here
        values = plain(build(RunConfig, values))
    return ComparedRun(name, records, values)


def _file(group: str) -> str:
    return group.strip("/").replace("/", "_") + ("_by_name" if group.endswith("/") else "")


def _leaves(values: Any, others: Sequence[Any], where: str = "") -> dict[str, Any]:
    """Plain values by key; an entry of a list that not all of `others` have is one leaf."""
    if isinstance(values, dict):
        dot = f"{where}." if where else ""
        inside = [
            _leaves(value, [o.get(key) for o in others if isinstance(o, dict)], f"{dot}{key}")
            for key, value in values.items()
        ]
        return {k: v for leaves in inside for k, v in leaves.items()}
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        lists = [o for o in others if isinstance(o, list)]
        common = min(len(o) for o in lists)
        out = {f"{where}[{i}]": _short(value) for i, value in enumerate(values) if i >= common}
        for i, value in enumerate(values[:common]):
            out |= _leaves(value, [o[i] for o in lists], f"{where}[{i}]")
        return out
    return {where: values}


def _short(entry: Any) -> Any:
    """A stage in a few words, from its keys; anything else as it is."""
    keys = ("name", "duration", "learning_rate", "mixture")
    return ", ".join(str(entry[key]) for key in keys if entry.get(key)) if isinstance(entry, dict) else entry


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
