"""The pictures of a run report, each a function from the run's records to a figure."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxpt.reporting.series import Records, runs, series, smooth

NAMED = ("train/loss/", "data/share/", "data/wanted/", "eval/bpb/")  # metrics that are named after sources or sets


def colors(records: Records) -> dict[str, str]:
    """Returns the colour of every source and every held-out set by its name, one for all pictures of a report."""
    names = {name for prefix in NAMED for name in series(records, prefix)}
    palette = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    return {name: to_hex(palette(i % palette.N)) for i, name in enumerate(sorted(names))}


def _figure(title: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    axes.set(title=title, xlabel="step", ylabel=y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def mark_stages(axes: Axes, records: Records) -> None:
    """A thin line wherever the stage changes, each stage's name above where it began."""
    names: list[tuple[int, str]] = []
    last = 0
    for record in records:
        stage = record.get("stage")
        if stage is not None and (not names or names[-1][1] != stage):
            names.append((last, stage))
        last = record["step"]
    if len(names) < 2:
        return
    axes.set_title(axes.get_title(), pad=16)
    for step, name in names:
        axes.axvline(step, color="0.6", lw=0.8, ls=":")
        axes.annotate(
            name,
            (step, 1.0),
            xytext=(1, 3),
            textcoords="offset points",
            xycoords=("data", "axes fraction"),
            fontsize=7,
            color="0.25",
        )


def loss(records: Records) -> Figure | None:
    """Training loss per source: each record faint, the running mean over it."""
    curves = series(records, "train/loss/")
    if not curves:
        return None
    figure, axes = _figure("training loss per source", "nats per token")
    color = colors(records)
    for name, (steps, values) in curves.items():
        (line,) = axes.plot([], [], lw=1.6, label=name, color=color[name])
        for part in runs(steps, records, f"data/wanted/{name}"):  # no line through stages without this source
            mean = smooth(values[part], max(len(values) // 20, 1))
            axes.plot(steps[part], mean, lw=1.6, color=line.get_color())
            axes.plot(steps[part], values[part], lw=0.7, alpha=0.25, color=line.get_color())
    mark_stages(axes, records)
    axes.legend(frameon=False)
    return figure


def bits_per_byte(records: Records) -> Figure | None:
    """Held-out bits per byte."""
    curves = series(records, "eval/bpb/")
    if not curves:
        return None
    figure, axes = _figure("held-out documents", "bits per byte")
    color = colors(records)
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, marker="o", ms=4, label=name, color=color[name])
        axes.annotate(f"{values[-1]:.2f}", (steps[-1], values[-1]), xytext=(6, -3), textcoords="offset points")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    mark_stages(axes, records)
    axes.legend(frameon=False)
    return figure


def learning_rate(records: Records) -> Figure | None:
    """The learning rate of each step."""
    curves = series(records, "optim/learning_rate")
    if not curves:
        return None
    figure, axes = _figure("learning rate", "")
    axes.plot(*curves[""], lw=1.6)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    mark_stages(axes, records)
    return figure


def mixture(records: Records) -> Figure | None:
    """What batches are made of: realised shares stacked, stage by stage, and where the wanted ones end (dashed)."""
    wanted, curves = series(records, "data/wanted/"), series(records, "data/share/")
    if not curves:
        return None
    figure, axes = _figure("mixture: shares of rows; dashed: as wanted", "share of rows, stacked")
    names = sorted(curves, key=lambda n: -curves[n][1].sum())
    color = colors(records)
    first = 0
    for stage in _legs(records):
        at = {n: np.isin(steps, stage) for n, (steps, _) in curves.items()}
        edge, line = np.zeros(len(stage)), np.zeros(len(stage))
        for n in names:
            top = edge + curves[n][1][at[n]]
            axes.fill_between([first, *stage], [edge[0], *edge], [top[0], *top], color=color[n], lw=0, step="pre")
            edge = top
            if n in wanted and wanted[n][1][at[n]].any():
                line = line + wanted[n][1][at[n]]
                axes.plot([first, *stage], [line[0], *line], lw=0.7, ls="--", color="0.15", drawstyle="steps-pre")
        first = stage[-1]
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    handles = [Patch(color=color[n], label=n) for n in names]
    figure.legend(handles=handles[::-1], frameon=False, loc="outside right upper", fontsize=8)
    mark_stages(axes, records)
    return figure


def _legs(records: Records) -> list[list[int]]:
    """Steps with a record of the mixture, stage by stage."""
    out: list[list[int]] = []
    before = object()
    for record in records:
        if any(k.startswith("data/share/") for k in record):
            if record.get("stage") != before or not out:
                out.append([])
            out[-1].append(record["step"])
            before = record.get("stage")
    return out


def throughput(records: Records) -> Figure | None:
    """Tokens per second of finished work; laps that hold a compilation as crosses."""
    warm = [r for r in records if "perf/tokens_per_s" in r and not r.get("perf/warmup")]
    cold = [r for r in records if r.get("perf/warmup")]
    if not warm and not cold:
        return None
    figure, axes = _figure("throughput", "tokens per second")
    axes.plot([r["step"] for r in warm], [r["perf/tokens_per_s"] for r in warm], lw=1.2)
    rates = [r["perf/tokens_per_s"] for r in cold]
    axes.plot([r["step"] for r in cold], rates, "x", color="0.5", label="with compilation")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure


def gradient_norm(records: Records) -> Figure | None:
    """Norm of the gradient before clipping."""
    curves = series(records, "train/grad_norm")
    if "" not in curves:
        return None
    figure, axes = _figure("gradient norm before clipping", "")
    axes.plot(*curves[""], lw=1.0)
    axes.set_yscale("log")
    mark_stages(axes, records)
    return figure


def norms(records: Records) -> Figure | None:
    """Norms of parameters, gradients and updates by axis group (`metrics.watch`)."""
    kinds = ("params", "grads", "updates")
    curves = {kind: series(records, f"watch/{kind}/") for kind in kinds}
    if not curves["params"]:
        return None
    figure, parts = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for axes, kind in zip(parts, kinds):
        for name, (steps, values) in curves[kind].items():
            axes.plot(steps, values, lw=1.2, label=name)
        axes.set(title=f"norms of {kind}", xlabel="step", yscale="log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*parts[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)
    return figure


def experts(records: Records) -> Figure | None:
    """Mixtures of experts: the most and the least loaded expert above, entropy of the router and dead experts below."""
    curves = series(records, "moe/")
    if "max_load" not in curves:
        return None
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.2, 5.2), layout="constrained", sharex=True)
    for name, label in (("max_load", "most loaded expert of any layer"), ("min_load", "least loaded")):
        top.plot(*curves[name], lw=1.4, label=label)
    top.axhline(1.0, color="0.5", lw=0.9, ls="--", label="even share")
    worst = curves["max_violation"][1]
    title = f"experts' load; maximum violation at first {worst[0]:.2f}, at last {worst[-1]:.2f}"
    top.set(title=title, ylabel="even shares")
    top.set_ylim(bottom=0)
    (entropy,) = bottom.plot(*curves["entropy"], lw=1.4, label="entropy of the router's choice")
    bottom.set(xlabel="step", ylabel="nats")
    bottom.set_ylim(bottom=0)
    right = bottom.twinx()
    (dead,) = right.plot(*curves["dead_experts"], lw=1.2, ls="-", color="C3", label="dead experts, all layers")
    right.set_ylim(0, max(1.0, 1.05 * float(curves["dead_experts"][1].max())))
    right.set_ylabel("experts")
    bottom.legend(handles=[entropy, dead], frameon=False)
    top.legend(frameon=False)
    for axes in (top, bottom, right):
        axes.spines["top"].set_visible(False)
        if axes is not right:
            axes.grid(alpha=0.25)
            mark_stages(axes, records)
    return figure


def sparsity(records: Records) -> Figure | None:
    """Mask training: the sparsity of each constraint and its target (dashed) above, its multipliers below."""
    now, wanted = series(records, "train/sparsity/"), series(records, "train/sparsity_target/")
    if not wanted:
        return None
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.2, 5.2), layout="constrained", sharex=True)
    multipliers = series(records, "train/multiplier/")
    for i, name in enumerate(wanted):
        top.plot(*now[name], lw=1.5, color=f"C{i}", label=name)
        top.plot(*wanted[name], lw=1.0, ls="--", color=f"C{i}")
        for power, style in (("linear", "-"), ("quadratic", ":")):
            if f"{name}/{power}" in multipliers:
                bottom.plot(*multipliers[f"{name}/{power}"], lw=1.2, ls=style, color=f"C{i}")
    top.set(title="sparsity by axis; dashed: its target", ylabel="expected sparsity")
    bottom.set(xlabel="step", ylabel="multipliers (dotted: of squares)")
    top.legend(frameon=False, ncols=2)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        mark_stages(axes, records)
    return figure


PICTURES = {
    "loss": loss,
    "bits_per_byte": bits_per_byte,
    "learning_rate": learning_rate,
    "mixture": mixture,
    "throughput": throughput,
    "gradient_norm": gradient_norm,
    "norms": norms,
    "experts": experts,
    "sparsity": sparsity,
}
