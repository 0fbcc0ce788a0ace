"""A sweep as a person reads it: what it will cost, which point is best, and the page with its pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from jaxpt.cli.terminal import table
from jaxpt.reporting.page import embedded, html_table, write_page
from jaxpt.sweeps.halving import Rung
from jaxpt.sweeps.pictures import curves, over_keys
from jaxpt.sweeps.points import SweepPoint, short_key, shown
from jaxpt.sweeps.results import PointResult, reached, smoothed
from jaxpt.sweeps.sweep import PointCost

RankingRows = list[list[object]]
SHARES = (0.25, 0.5, 1.0)  # of the budget, where losses are compared


def costs(
    points: Sequence[SweepPoint], of: Mapping[str, PointCost], rungs: Sequence[Rung], flops_per_s: float | None
) -> str:
    """Returns the points and what they will take; `flops_per_s` is of one point, None where nothing was measured."""
    keys = list(points[0].values)
    head = ["point", *map(short_key, keys), "steps", "tokens", "FLOPs", *(["time"] if flops_per_s else [])]
    rows: RankingRows = []
    for p in points:
        cost = of[p.name]
        time = [duration(cost.flops / flops_per_s)] if flops_per_s else []
        rows.append([p.name, *(shown(p.values[k]) for k in keys), cost.steps, cost.tokens, f"{cost.flops:.3g}", *time])
    total = most(list(of.values()), rungs)
    line = f"{len(points)} points, at most {total:.3g} FLOPs in all"
    if flops_per_s:
        line += f", {duration(total / flops_per_s)} one after the other at the speed that was measured"
    lines = [table(head, rows), line]
    if len(rungs) > 1:
        left = [len(points), *(rung.keep for rung in rungs[:-1])]
        lines += [f"rung {i + 1}: {n} points to {r.tokens:,} tokens" for i, (n, r) in enumerate(zip(left, rungs))]
    return "\n".join(lines)


def most(of: Sequence[PointCost], rungs: Sequence[Rung]) -> float:
    """Returns the FLOPs of a sweep in which, at each rung, the dearest points go on."""
    total, within = 0.0, list(of)
    for number, rung in enumerate(rungs):
        total += sum(c.rung_flops[number] - (c.rung_flops[number - 1] if number else 0) for c in within)
        within = sorted(within, key=lambda c: -c.flops)[: rung.keep]
    return total


def flops_per_s(results: Sequence[PointResult]) -> float | None:
    """Returns the median speed at which points were trained, in FLOP/s; None where none was measured."""
    known = [r.tokens_per_s * r.flops / r.tokens for r in results if r.tokens_per_s and r.flops and r.tokens]
    return median(known) if known else None


def duration(seconds: float) -> str:
    """Returns seconds as `1 h 02 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def ranking(results: Sequence[PointResult], keys: Sequence[str], metric: str) -> tuple[list[str], RankingRows]:
    """Returns head and rows: the points, best first, with the losses on their way and how soon each fell.

    The last column is the tokens at which a point's training loss fell to the level where the middle one of those that
    finished ended: whose loss falls fastest has the smallest.
    """
    ends = [smoothed(r.curve)[-1][1] for r in results if r.state == "finished" and r.curve]
    level = median(ends) if ends else math.nan
    budget = max((r.tokens for r in results), default=0)
    head = ["", "point", *map(short_key, keys), "state", "tokens", metric]
    head += [f"training loss at {share:.0%}" for share in SHARES] + [f"tokens to {level:.3f}"]
    rows: RankingRows = []
    for place, r in enumerate(results, 1):
        line = smoothed(r.curve)
        at = [_at(line, share * budget) for share in SHARES]
        sooner = reached(line, level)
        cells = [place if r.loss is not None else "", r.point, *(shown(r.values[k]) for k in keys), r.state, r.tokens]
        cells += [f"{r.loss:.4f}" if r.loss is not None else "", *at]
        rows.append([*cells, "" if math.isnan(sooner) else round(sooner)])
    return head, rows


def write_sweep_page(workdir: Path, results: Sequence[PointResult], keys: Sequence[str], metric: str) -> Path:
    """Writes report/index.html and its pictures into the folder of a sweep; `metric` is what was compared."""
    out = workdir / "report"
    out.mkdir(exist_ok=True)
    labels = {r.point: ", ".join(f"{short_key(k)} {shown(v)}" for k, v in r.values.items()) for r in results}
    figures = {"curves": curves(results, labels), **over_keys(results, keys, metric)}
    head, rows = ranking(results, keys, metric)
    cells = [[f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows]
    failed = [[r.point, r.error] for r in results if r.error]
    parts = [
        f"<h2>Points, best first</h2>{html_table(head, cells)}",
        "<h2>Pictures</h2>",
        '<div class="pictures">',
        *(embedded(figure, out / f"{name}.png") for name, figure in figures.items() if figure is not None),
        "</div>",
        *([f"<h2>Failed</h2>{html_table(['point', 'last line of its log'], failed)}"] if failed else []),
    ]
    return write_page(out / "index.html", workdir.name, str(workdir), parts)


def _at(line: Sequence[tuple[int, float]], tokens: float) -> str:
    """The loss at so many tokens, interpolated; "" outside what was trained."""
    if not line or not line[0][0] <= tokens <= line[-1][0]:
        return ""
    after = next(i for i, (t, _) in enumerate(line) if t >= tokens)
    (t0, v0), (t1, v1) = line[max(after - 1, 0)], line[after]
    return f"{v1 if t1 == t0 else v0 + (v1 - v0) * (tokens - t0) / (t1 - t0):.4f}"
