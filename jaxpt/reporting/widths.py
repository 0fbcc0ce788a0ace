"""Pictures of the coordinate check and of the sweep of width × learning rate."""

from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxpt.planning.coordinates import Coordinates
from jaxpt.planning.sweep import Sweep

TITLES = {"mup": "µP", "standard": "standard (negative control)"}


def draw_coordinates(found: Mapping[str, Coordinates]) -> Figure:
    """Returns mean |x| over width, a row per parameterisation, a column per site, a line per step (mean of seeds)."""
    sites = list(next(iter(found.values())).size)
    figure, grid = plt.subplots(
        len(found), len(sites), figsize=(2.3 * len(sites), 2.7 * len(found)), layout="constrained", squeeze=False
    )
    for row, (kind, measured) in zip(grid, found.items()):
        steps = measured.loss.shape[2]
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, steps))
        for axes, site in zip(row, sites):
            for step in range(steps):
                values = measured.size[site][:, :, step].mean(axis=1)
                axes.plot(measured.widths, values, color=colors[step], lw=1.4, marker="o", ms=3, label=f"step {step}")
            _log2(axes, measured.widths)
            axes.set_yscale("log", base=2)
            axes.set_title(f"{site}\nlast slope {measured.slope(site, steps - 1):+.2f}", fontsize=9)
        row[0].set_ylabel(f"{TITLES[kind]}\nmean |x|", fontsize=9)
    _share_y(grid)
    grid[0][0].legend(frameon=False, fontsize=7)
    figure.supxlabel("width of the residual stream", fontsize=9)
    return figure


def draw_sweep(found: Mapping[str, Sweep]) -> Figure:
    """Returns loss over learning rate, a column per parameterisation, a line per width; a ring marks each best."""
    figure, row = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3.8), layout="constrained", squeeze=False)
    finite = np.concatenate([s.loss.mean(axis=2)[np.isfinite(s.loss.mean(axis=2))] for s in found.values()])
    low, high = (finite.min(), np.quantile(finite, 0.9)) if len(finite) else (0.0, 1.0)
    for axes, (kind, measured) in zip(row[0], found.items()):
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(measured.widths)))
        for width, values, best, color in zip(measured.widths, measured.loss.mean(axis=2), measured.best(), colors):
            shown = np.where(np.isfinite(values), values, np.nan)
            axes.plot(measured.rates, shown, color=color, lw=1.6, marker="o", ms=3, label=f"width {width}")
            axes.plot([2**best.log2], [best.loss], marker="o", ms=9, mfc="none", mec=color, mew=1.6)
        axes.set_xscale("log", base=2)
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        axes.grid(alpha=0.25)
        axes.set(title=f"{TITLES.get(kind, kind)}: spread {measured.spread:.1f} octaves", xlabel="peak learning rate")
        axes.title.set_fontsize(10)
    row[0][0].set_ylabel("training loss of the last tenth, nats per token")
    row[0][0].legend(frameon=False, fontsize=8)
    return figure


def _log2(axes: Axes, widths: tuple[int, ...]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(w) for w in widths], fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.25)


def _share_y(grid: np.ndarray) -> None:
    """Gives the panels of one site one scale, at least a factor of 4 high, so that a flat line looks flat."""
    for column in grid.T:
        limits = [axes.get_ylim() for axes in column]
        low, high = min(a for a, _ in limits), max(b for _, b in limits)
        wider = max(1.0, 2 / np.sqrt(high / low))
        for axes in column:
            axes.set_ylim(low / wider, high * wider)
