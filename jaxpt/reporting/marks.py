"""What happened between and to the steps of a run, drawn on its pictures: saved, evaluated, skipped, …"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jaxpt.reporting.series import Records, series
from jaxpt.training.rollbacks import PassedOver, read

RED, GREY = "#c0392b", "0.45"


@dataclass(frozen=True)
class Marks:
    """Steps at which something happened; `skipped` are records in which the guard's count of skipped steps rose."""

    saved: Sequence[int] = ()
    evaluated: Sequence[int] = ()
    skipped: Sequence[int] = ()
    rollbacks: Sequence[PassedOver] = ()
    branched: Sequence[int] = ()

    @property
    def facts(self) -> list[list[str]]:
        """Rows of a name and what there is to say, for the report's first table."""
        said = [f"{r.first + 1:,} to {r.stop:,} (at step {r.at:,}, {r.reason})" for r in self.rollbacks]
        return [["steps passed over", "; ".join(said)]] if said else []


def marks_of(workdir: Path, records: Records, events: Records) -> Marks:
    """Returns what there is to mark; what was cut back and done again is marked once."""
    last = max((r["step"] for r in records), default=0)
    at = lambda name: sorted({e["step"] for e in events if e["event"] == name and e["step"] <= last})  # noqa: E731
    steps, counts = series(records, "guard/skipped").get("", ((), ()))
    risen = [int(s) for s, now, before in zip(steps, counts, [0.0, *counts]) if now > before]
    return Marks(at("save"), at("evaluation ends"), risen, read(workdir), at("branch"))


def guard_facts(records: Records) -> list[list[str]]:
    """Returns rows about what a guard has seen, none without one."""
    last: Mapping[str, Any] = next((r for r in reversed(records) if "guard/skipped" in r), {})
    if not last:
        return []
    text = f"{last['guard/skipped']:,.0f} skipped, {last['guard/not_finite']:,.0f} not finite"
    rows = [["steps, as the guard saw them", f"{text}; spike score {last['guard/spike_score']:.2%} of the last steps"]]
    trained = next((r["trained_tokens"] for r in reversed(records) if "trained_tokens" in r), None)
    return [*rows, *([["tokens that changed the model", f"{trained:,}"]] if trained is not None else [])]


def draw(figure: Figure, marks: Marks) -> None:
    """Draws the marks on every picture over steps, and says below it what they are."""
    kinds = [
        (marks.saved, "|", 0.0, GREY, "checkpoint"),
        (marks.evaluated, "^", 0.03, GREY, "evaluation"),
        (marks.branched, "D", 0.0, "#2c6fbb", "branched off its trunk"),
        (marks.skipped, "v", 0.97, RED, "skipped by the guard"),
        ([r.at for r in marks.rollbacks], "<", 0.97, RED, "rolled back"),
    ]
    if not any(len(steps) for steps, *_ in kinds):
        return
    for axes in figure.axes:
        left, right = axes.get_xlim()
        place = axes.get_xaxis_transform()  # y: 0 at the bottom of the axes, 1 at its top
        for steps, marker, y, color, _ in (kind for kind in kinds if len(kind[0])):
            axes.plot(steps, [y] * len(steps), marker, ms=5, color=color, transform=place, clip_on=False, zorder=5)
        for r in marks.rollbacks:
            axes.axvspan(r.first, r.stop, color=RED, alpha=0.13, lw=0)
        axes.set_xlim(left, right)
    handles: list[Any] = [
        Line2D([], [], marker=marker, ls="", ms=5, color=color, label=label)
        for steps, marker, _, color, label in kinds
        if len(steps)
    ]
    if marks.rollbacks:
        handles.append(Patch(color=RED, alpha=0.13, label="passed over"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncol=5, frameon=False, fontsize=7)
