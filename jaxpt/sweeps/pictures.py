"""The pictures of a sweep: loss against tokens of each point, and the loss over one key or over two."""

import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxpt.sweeps.points import short_key, shown
from jaxpt.sweeps.results import PointResult, smoothed

LEGEND = 12  # points that a legend names
PAIRS = 3  # surfaces over pairs of keys
WIDEST, DRAWN = 62.0, 24.0  # points that a marker of a grid, or of a draw, is wide
OCTAVES = 4.0  # a key whose values spread by more than this factor is drawn on a logarithmic axis


def curves(results: Sequence[PointResult], labels: Mapping[str, str]) -> Figure | None:
    """Training loss against tokens, a line per point, the best the darkest; the mean over the last tenth so far."""
    drawn = [r for r in results if r.curve]
    if not drawn:
        return None
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(drawn)))
    for result, color in zip(drawn[::-1], shades[::-1]):
        line = smoothed(result.curve)
        axes.plot([t for t, _ in line], [v for _, v in line], color=color, lw=1.4, label=labels[result.point])
        if result.state == "diverged":
            axes.plot(*line[-1], "x", color=color)
    starts, lows = [r.curve[0][1] for r in drawn], [min(v for _, v in smoothed(r.curve)) for r in drawn]
    axes.set_ylim(min(lows) - 0.05 * (max(starts) - min(lows)), max(starts) * 1.02)  # one that diverges leaves the top
    axes.set(title="training loss against tokens, best point first", xlabel="tokens", ylabel="nats per token")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[::-1][:LEGEND], names[::-1][:LEGEND], frameon=False, fontsize=7)
    return figure


def over_keys(results: Sequence[PointResult], keys: Sequence[str], metric: str) -> dict[str, Figure]:
    """Returns pictures by name: the loss over the one key that varies, or surfaces over pairs of those that do."""
    ended = [r for r in results if r.state in ("finished", "diverged")]
    furthest = max((r.rung for r in ended), default=0)
    ended = [r for r in ended if r.rung == furthest or r.state == "diverged"]
    varying = [key for key in keys if len({repr(r.values[key]) for r in ended}) > 1]
    if not any(r.loss is not None for r in ended):
        return {}
    if len(varying) == 1:
        return {"over_key": _line(ended, varying[0], metric)}
    pairs = list(itertools.combinations(varying, 2))[:PAIRS]
    return {f"surface{i or ''}": _surface(ended, *pair, metric) for i, pair in enumerate(pairs)}


def _line(results: Sequence[PointResult], key: str, metric: str) -> Figure:
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    places, ticks = _places([r.values[key] for r in results])
    order = np.argsort(places)
    known = [(places[i], results[i].loss) for i in order if results[i].loss is not None]
    axes.plot([x for x, _ in known], [y for _, y in known], marker="o", ms=4, lw=1.4)
    for i in order:
        if results[i].loss is None:
            axes.axvline(places[i], color="C3", lw=0.9, ls=":")
            axes.annotate(
                "diverged", (places[i], 1), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top"
            )
    _axis(axes, "x", [r.values[key] for r in results], ticks, key)
    axes.set_ylabel(metric)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _surface(results: Sequence[PointResult], one: str, two: str, metric: str) -> Figure:
    """The least loss over all other keys at each pair of values; a cross marks what diverged, a ring the best."""
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    columns, rows = [r.values[one] for r in results], [r.values[two] for r in results]
    (xs, xticks), (ys, yticks) = _places(columns), _places(rows)
    least: dict[tuple[float, float], float] = {}
    for x, y, result in zip(xs, ys, results):
        least[x, y] = min(least.get((x, y), math.inf), result.score)
    finite = {place: loss for place, loss in least.items() if math.isfinite(loss)}
    values = np.array(list(finite.values()))
    top = float(np.quantile(values, 0.9)) if len(values) > 3 else float(values.max())
    norm = plt.Normalize(float(values.min()), max(top, float(values.min()) + 1e-9))
    scatter = axes.scatter(
        [x for x, _ in finite], [y for _, y in finite], c=values, cmap="viridis_r", norm=norm,
        s=_size(least), marker="s" if _is_grid(least) else "o",
    )  # fmt: skip
    for (x, y), loss in least.items():
        if not math.isfinite(loss):
            axes.plot(x, y, "x", color="C3")
        elif len(least) <= 64:
            dark = norm(loss) > 0.5
            axes.annotate(f"{loss:.3g}" if loss >= 100 else f"{loss:.3f}", (x, y), ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
    best = min(finite, key=lambda place: finite[place])
    axes.scatter(*best, s=1.7 * _size(least), facecolors="none", edgecolors="C3", linewidths=1.6)
    _axis(axes, "x", columns, xticks, one)
    _axis(axes, "y", rows, yticks, two)
    axes.margins(0.18)
    figure.colorbar(scatter, ax=axes, label=metric, extend="max" if values.max() > top else "neither")
    return figure


def _size(places: Mapping[tuple[float, float], float]) -> float:
    """Area of a marker in square points, so that neighbours of a grid do not touch."""
    columns, rows = len({x for x, _ in places}), len({y for _, y in places})
    return min(WIDEST, 280 / columns, 190 / rows) ** 2 if _is_grid(places) else DRAWN**2


def _is_grid(places: Mapping[tuple[float, float], float]) -> bool:
    return len(places) > 1 and len(places) == len({x for x, _ in places}) * len({y for _, y in places})


def _places(values: Sequence[object]) -> tuple[list[float], list[str] | None]:
    """Where values lie on an axis: numbers at their place (their logarithm where they spread), others one by one."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = [float(v) for v in values]  # type: ignore[arg-type]
        return ([math.log2(n) for n in numbers] if _is_log(numbers) else numbers), None
    texts = list(dict.fromkeys(map(shown, values)))
    return [float(texts.index(shown(v))) for v in values], texts


def _is_log(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and max(numbers) / min(numbers) > OCTAVES


def _axis(axes: Axes, which: str, values: Sequence[object], texts: list[str] | None, key: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(short_key(key))
    if texts is not None:
        axis.set_ticks(range(len(texts)), texts, fontsize=8)
        return
    distinct = sorted({float(v) for v in values})  # type: ignore[arg-type]
    if len(distinct) > 12:
        distinct = [distinct[round(i * (len(distinct) - 1) / 6)] for i in range(7)]
    places = [math.log2(v) for v in distinct] if _is_log([float(v) for v in values]) else distinct  # type: ignore[arg-type]
    axis.set_ticks(places, [f"{v:.3g}" for v in distinct], fontsize=8)
