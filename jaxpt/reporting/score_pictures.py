"""The picture of scores over the steps, under the losses."""

import math
from collections.abc import Collection, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from jaxpt.reporting.pictures import mark_stages
from jaxpt.reporting.scores import BITS, ScoredStep, names_of
from jaxpt.reporting.series import Records, series, smooth

MARKERS = "osD^vP*X"


def scores(records: Records, steps: Sequence[ScoredStep], kept: Collection[tuple[int, str]] = ()) -> Figure | None:
    """Losses above (training loss; bits per byte on the right), scores below with their standard errors.

    Rings are the points in `kept`: a step, and the score that it is kept for. A score that is no share of 1 is in the
    tables alone.
    """
    names = names_of(steps)
    bits = [n for n in names if n.endswith(BITS)]
    shares = [n for n in names if n not in bits and all(0 <= s.scores.get(n, 0) <= 1 for s in steps)]
    if not steps:
        return None
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.2, 5.6), layout="constrained", sharex=True)
    left = top.plot([], [], color="0.2", lw=1.6, label="training loss (left)")
    if (curve := series(records, "train/loss").get("")) is not None:
        top.plot(*curve, lw=0.7, alpha=0.25, color="0.2")
        top.plot(curve[0], smooth(curve[1], max(len(curve[1]) // 20, 1)), lw=1.6, color="0.2")
    right = top.twinx()
    held = {f"held-out {n}": c for n, c in series(records, "eval/bpb/").items()}
    answers = {n.replace("/", " "): _curve(steps, n) for n in bits}
    lines = [
        right.plot(*c, ls="--", lw=1.2, marker=MARKERS[i % len(MARKERS)], ms=3, color=f"C{i}", label=name)[0]
        for i, (name, c) in enumerate({**held, **answers}.items())
    ]
    top.set(title="losses", ylabel="nats per token")
    right.set_ylabel("bits per byte")
    right.set_visible(bool(lines))
    top.legend(handles=[*left, *lines], frameon=False, fontsize=7, ncols=2)
    for i, name in enumerate(shares):
        at, values = _curve(steps, name)
        errors = [s.stderrs.get(name, math.nan) for s in steps if name in s.scores]
        bottom.errorbar(
            at, values, yerr=errors, marker=MARKERS[i % len(MARKERS)], ms=4, lw=1.3, elinewidth=0.6, color=f"C{i}",
            label=name.replace("/", " "),
        )  # fmt: skip
        ring = [(a, v) for a, v in zip(at, values) if (a, name) in kept]
        bottom.plot([a for a, _ in ring], [v for _, v in ring], "o", ms=10, mfc="none", color=f"C{i}")
    bottom.set(xlabel="step", title="scores, with their standard errors" + ("; rings: kept as best" if kept else ""))
    if shares:
        bottom.legend(frameon=False, fontsize=7, ncols=2)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines["top"].set_visible(False)
        mark_stages(axes, records)
    return figure


def _curve(steps: Sequence[ScoredStep], name: str) -> tuple[list[int], list[float]]:
    mine = [s for s in steps if name in s.scores]
    return [s.step for s in mine], [s.scores[name] for s in mine]
