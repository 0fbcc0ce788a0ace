"""A plan before anything runs: learning rate, batch size, sequence length and mixture over its tokens, drawn."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxpt.cli.terminal import table, terminal_width
from jaxpt.training.history import Leg, tokens_before
from jaxpt.training.reached import Outline

POINTS = 2000  # of a curve in a picture
BARS = " ▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
LABEL = 11  # columns left of a chart in the terminal
THEMES = {"light": ("white", "#222222", "#bbbbbb"), "dark": ("#14181f", "#dde3ea", "#4a5563")}


@dataclass(frozen=True)
class PlanOutline:
    """What is to be drawn: all legs, the stages, and the shares of each source by stage, in the order of the config.

    Legs of a run that goes on begin with those that are done; `first` is the step from which it is drawn.
    """

    legs: Sequence[Leg]
    stages: Sequence[Outline]
    shares: Sequence[Mapping[str, float]]
    first: int

    @property
    def stop(self) -> int:
        """The run's last step."""
        return self.stages[-1].whole[1]

    def tokens(self, step: int) -> int:
        """Tokens before a step."""
        return tokens_before(self.legs, step)

    def stage_of(self, step: int) -> int:
        """The place of a step's stage in the config."""
        return min(bisect.bisect_right([stage.whole[1] for stage in self.stages], step), len(self.stages) - 1)

    def leg_of(self, step: int) -> Leg:
        """The leg of a step."""
        return next(leg for leg in self.legs if step < leg.stop)

    def steps(self, points: int) -> list[int]:
        """About so many steps at even distances of tokens, the first and last of each leg among them."""
        a, b = self.tokens(self.first), self.tokens(self.stop)
        edges = {step for leg in self.legs for step in (leg.first, leg.stop - 1)}
        some = {self.at(a + (b - a) * i / points) for i in range(points)}
        moves = {s.whole[0] + x.first for s in self.stages if s.curve for x in s.curve.segments}
        return sorted(s for s in edges | some | moves if self.first <= s < self.stop)

    def at(self, tokens: float) -> int:
        """The step at which so many tokens are done."""
        for leg in self.legs:
            done = self.tokens(leg.first)
            if tokens < done + leg.tokens:
                return leg.first + max(0, int((tokens - done) // leg.tokens_per_step))
        return self.stop - 1

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.stages[self.stage_of(step)].rate(step)


def show(plan: PlanOutline) -> str:
    """Returns the plan as charts of text, as wide as the terminal (80 columns where there is none), and as a table."""
    width = (terminal_width() or 80) - LABEL - 1
    a, b = plan.tokens(plan.first), plan.tokens(plan.stop)
    columns = [plan.at(a + (b - a) * (i + 0.5) / width) for i in range(width)]
    rates = [plan.rate(step) for step in columns]
    lines = ["learning rate", *_bars(rates, 7), "", *_axis(plan, columns, width)]
    lines += ["", _row("batch size", [plan.leg_of(s).batch_size for s in columns])]
    lines += [_row("row length", [plan.leg_of(s).sequence_length for s in columns])]
    lines += ["", "mixture (░ ▒ ▓ █: up to 25, 50, 75, 100 % of a batch)"]
    for name in dict.fromkeys(name for shares in plan.shares for name in shares):
        of = [plan.shares[plan.stage_of(step)].get(name, 0.0) for step in columns]
        shade = "".join(SHADES[0 if v <= 0 else min(4, 1 + int(v * 3.999))] for v in of)
        lines.append(f"{name[:LABEL]:<{LABEL}}|{shade}".rstrip())
    return "\n".join(lines) + "\n\n" + _table(plan)


def _bars(values: Sequence[float], height: int) -> list[str]:
    """A chart of filled columns, its top labelled with the largest value."""
    top = max(values) or 1.0
    eighths = [round(v / top * height * 8) if v <= 0 else max(1, round(v / top * height * 8)) for v in values]
    out = []
    for row in range(height - 1, -1, -1):
        label = (
            f"{top:.3g}" if row == height - 1 else "0" if row == 0 else f"{top / 2:.3g}" if row == height // 2 else ""
        )
        cells = "".join(BARS[min(8, max(0, n - 8 * row))] for n in eighths)
        out.append(f"{label:>{LABEL}}|{cells}".rstrip())
    return out


def _axis(plan: PlanOutline, columns: Sequence[int], width: int) -> list[str]:
    """Where stages begin, and how many tokens are done there."""
    begins = [i for i, step in enumerate(columns) if not i or plan.stage_of(step) != plan.stage_of(columns[i - 1])]
    names, counts = [" "] * width, [" "] * width
    for i, stop in zip(begins, [*begins[1:], width]):
        stage = plan.stages[plan.stage_of(columns[i])]
        for text, into in ((f"|{stage.config.name}", names), (f"|{_short(plan.tokens(stage.whole[0]))}", counts)):
            into[i:stop] = _fitted(text, stop - i)
    end = f"{_short(plan.tokens(plan.stop))}"
    if "".join(counts[width - len(end) - 1 :]).strip() == "":
        counts[width - len(end) :] = end
    return [f"{'stage':<{LABEL}}{''.join(names)}".rstrip(), f"{'tokens':<{LABEL}}{''.join(counts)}".rstrip()]


def _row(name: str, values: Sequence[int]) -> str:
    """A line that writes each value where it begins."""
    cells = [" "] * len(values)
    begins = [i for i, v in enumerate(values) if not i or v != values[i - 1]]
    for i, stop in zip(begins, [*begins[1:], len(values)]):
        cells[i:stop] = _fitted(f"|{values[i]:,}", stop - i)
    return f"{name:<{LABEL}}{''.join(cells)}".rstrip()


def _fitted(text: str, width: int) -> str:
    """A text of exactly so many columns; a mark says that it was cut."""
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def _table(plan: PlanOutline) -> str:
    """A line per leg that is to come: numbers that a chart of text cannot show."""
    rows = []
    for leg in plan.legs:
        if leg.stop <= plan.first or leg.inherited:
            continue
        first, last = max(leg.first, plan.first), leg.stop - 1
        size = f"{leg.batch_size:,} × {leg.sequence_length:,}"
        steps = f"{first:,} … {leg.stop:,}"
        tokens = plan.tokens(leg.stop) - plan.tokens(first)
        rows.append([leg.stage, steps, _short(tokens), size, plan.rate(first), plan.rate(last)])
    return table(["stage", "steps", "tokens", "batch × length", "first rate", "last rate"], rows)


def _short(tokens: int) -> str:
    """A number of tokens in three digits."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{letter}"
    return str(tokens)


def draw(plan: PlanOutline, theme: str = "light") -> Figure:
    """Returns the plan as a picture over tokens; `theme` is light or dark."""
    back, text, line = THEMES[theme]
    settings: dict[Any, Any] = {
        "figure.facecolor": back,
        "axes.facecolor": back,
        "savefig.facecolor": back,
        "text.color": text,
    }
    settings |= dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), text) | {"axes.edgecolor": line}
    with plt.rc_context(settings):
        figure, grid = plt.subplots(
            4, 1, figsize=(8.6, 8.2), layout="constrained", sharex=True, height_ratios=(2.2, 0.9, 0.9, 1.8)
        )
        _panels(plan, list(grid), line)
        for axes in grid:
            axes.spines[["top", "right"]].set_visible(False)
            for stage in plan.stages[1:]:
                if stage.whole[0] > plan.first:
                    axes.axvline(plan.tokens(stage.whole[0]), color=line, lw=0.9, ls=":")
        _names(plan, grid[0])
    return figure


def _panels(plan: PlanOutline, grid: list[Axes], line: str) -> None:
    steps = plan.steps(POINTS)
    at = [plan.tokens(step) for step in steps]
    grid[0].plot(at, [plan.rate(step) for step in steps], lw=1.8, color="#1f77b4")
    grid[0].set(ylabel="learning rate")
    grid[0].set_ylim(bottom=0)
    grid[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    edges = [*at, plan.tokens(plan.stop)]
    for axes, name, color in ((grid[1], "batch_size", "#d9730d"), (grid[2], "sequence_length", "#2a9d5c")):
        values = [getattr(plan.leg_of(step), name) for step in steps]
        axes.stairs(values, edges, lw=1.8, color=color, baseline=None)
        axes.set(ylabel=name.removeprefix("sequence_").replace("_", " "))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, 1.25 * max(values))
    for axes in grid[:3]:
        axes.grid(alpha=0.3, color=line)
    names = list(dict.fromkeys(name for shares in plan.shares for name in shares))
    palette = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    low = np.zeros(len(steps))
    for i, name in enumerate(names):
        high = low + np.array([plan.shares[plan.stage_of(step)].get(name, 0.0) for step in steps])
        grid[3].fill_between(
            edges, np.append(low, low[-1]), np.append(high, high[-1]), step="post", color=palette(i % palette.N), lw=0
        )
        low = high
    grid[3].set(ylabel="share of a batch", xlabel="tokens")
    grid[3].set_ylim(0, 1)
    grid[3].margins(x=0)
    grid[3].xaxis.set_major_formatter(lambda value, _: _short(round(value)))
    handles = [Patch(color=palette(i % palette.N), label=name) for i, name in enumerate(names)]
    grid[3].legend(handles=handles, frameon=False, ncols=min(5, len(names)), loc="upper center",
                   bbox_to_anchor=(0.5, -0.3), fontsize=9)  # fmt: skip


def _names(plan: PlanOutline, axes: Axes) -> None:
    """The stages' names above where they begin."""
    for stage in plan.stages:
        if stage.whole[1] > plan.first:
            where = (plan.tokens(max(stage.whole[0], plan.first)), 1.0)
            axes.annotate(
                stage.config.name, where, xytext=(2, 3), textcoords="offset points", fontsize=9,
                xycoords=("data", "axes fraction"),
            )  # fmt: skip
