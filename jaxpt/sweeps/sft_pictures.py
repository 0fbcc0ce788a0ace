"""The picture of a probe: each score after the fine-tune against the same before it, a point per model."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxpt.sweeps.sft_scores import FEWEST, ProbeResult, ProbeScore, correlations

COLUMNS = 3  # panels beside each other
NAMED = 12  # points that have their names beside them


def base_against_after(results: Sequence[ProbeResult]) -> Figure | None:
    """Returns a panel for each score, with standard errors; None where there are fewer models than a line needs."""
    keys = list(dict.fromkeys(key for r in results for key in r.pairs()))
    if len(results) < FEWEST or not keys:
        return None
    rhos = {(c.task, c.metric): c for c in correlations(results) if c.of == "base, after"}
    columns = min(COLUMNS, len(keys))
    lines = -(-len(keys) // columns)
    size = (3.4 * columns + 0.8, 3.1 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, key in zip(grid.flat, keys):
        known = [(r, *r.pairs()[key]) for r in results if key in r.pairs()]
        _panel(axes, known)
        found = rhos[key]
        shown = found.note if found.rho is None else f"rho {found.rho:+.2f}"
        axes.set_title(f"{key[0]}, {key[1]} ({shown})", fontsize=9)
    for axes in list(grid.flat)[len(keys) :]:
        axes.set_axis_off()
    figure.supxlabel("base", fontsize=9)
    figure.supylabel("after SFT", fontsize=9)
    return figure


def _panel(axes: Axes, known: Sequence[tuple[ProbeResult, ProbeScore, ProbeScore]]) -> None:
    shades = plt.get_cmap("viridis")
    for place, (result, base, after) in enumerate(known):
        color = shades(0.9 * place / max(len(known) - 1, 1))
        axes.errorbar(
            base.value, after.value, xerr=base.stderr, yerr=after.stderr,
            fmt="o", ms=5, lw=0.8, color=color,
        )  # fmt: skip
        if len(known) <= NAMED:
            name = result.model.name if result.model.step is None else f"{result.model.step:,}"
            axes.annotate(name, (base.value, after.value), (4, 4), textcoords="offset points", fontsize=7)
    low, high = max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1])
    if low < high:
        axes.plot([low, high], [low, high], lw=0.8, ls=":", color="0.6")  # as good after as before
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
