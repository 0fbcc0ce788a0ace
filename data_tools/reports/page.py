"""The report as one HTML page: what each step left of each source, histograms, examples beside what they repeat."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.io.batch import Rule
from data_tools.reports.report import StepReport, alarms, examples, held, rows, times

MARK = "<h2>What stayed</h2>"  # is in every page, so that another page is not written over


def histogram(rule: Rule, bins: Sequence[int], removed: Sequence[int] | None = None) -> str:
    """Returns a picture (SVG) of a rule's values: bars, the part that the rule removed in red; thresholds as lines.

    Args:
        rule: with the range and the thresholds.
        bins: documents in each bin.
        removed: those of them that the rule removed; None for none.
    """
    width, height, foot = 360, 110, 18
    edges, tallest = rule.edges(), max(max(bins), 1)

    def x(value: float) -> float:
        low, high, value = (
            np.log(v) if rule.log else v for v in (rule.low, rule.high, np.clip(value, rule.low, rule.high))
        )
        return float((value - low) / (high - low) * width)

    parts = []
    for i, (n, out) in enumerate(zip(bins, removed or [0] * len(bins))):
        if not n:
            continue
        tall = max(1.0, np.sqrt(n / tallest) * (height - 4))  # square root: rare values stay visible
        left, right = x(edges[i]), x(edges[i + 1])
        place = f'x="{left:.1f}" width="{max(right - left - 0.6, 0.6):.1f}"'
        label = f"{edges[i]:.4g} … {edges[i + 1]:.4g}: {n:,}" + (f", {out:,} removed" if out else "")
        red = tall * out / n
        bars = [("out", height - tall, red), ("in", height - tall + red, tall - red)]
        drawn = "".join(f'<rect {place} y="{y:.1f}" height="{h:.1f}" class="{c}"/>' for c, y, h in bars if h)
        parts.append(f"<g>{drawn}<title>{label}</title></g>")
    for limit in (rule.least, rule.most):
        if limit is not None and rule.low <= limit <= rule.high:
            at = x(limit)
            side = "end" if at > width / 2 else "start"
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
            parts.append(
                f'<text x="{at + (-4 if side == "end" else 4):.1f}" y="11" text-anchor="{side}">{limit:.4g}</text>'
            )
    parts.append(f'<text x="0" y="{height + 14}">{rule.low:.4g}</text>')
    parts.append(
        f'<text x="{width}" y="{height + 14}" text-anchor="end">{rule.high:.4g}{" (log)" if rule.log else ""}</text>'
    )
    return f'<svg viewBox="0 0 {width} {height + foot}" width="{width}">{"".join(parts)}</svg>'


def page(steps: Sequence[StepReport], title: str, share: float) -> str:
    """Returns the report as one HTML page that needs nothing else."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    warnings = alarms(steps, share)
    body += [f'<p class="alarm">{html.escape(line)}</p>' for line in warnings]
    body += [MARK, _overview(steps), *_times(steps)]
    for report in steps:
        body.append(f"<h2>{html.escape(report.name)}</h2>")
        problems = sum(m["quarantined"] for m in report.manifests)
        repaired = sum(m["repaired"] for m in report.manifests)
        body.append(f"<p>{problems:,} records in quarantine, {repaired:,} texts with repaired characters.</p>")
        body += [*_removed(report), *_held(report), *_histograms(report), *_examples(report)]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    narrow = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{narrow}<title>{html.escape(title)}</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _cells(values: Sequence[Any], tag: str = "td") -> str:
    cells = (f"{v:,}" if isinstance(v, int) else html.escape(str(v)) for v in values)
    return "<tr>" + "".join(f"<{tag}>{v}</{tag}>" for v in cells) + "</tr>"


def _overview(steps: Sequence[StepReport]) -> str:
    """A row per source: words that came in, and a bar of what each step left."""
    names = sorted({source for report in steps for source in report.sources})
    lines = [_cells(["source", "documents", "words", *(f"after {s.name}" for s in steps)], "th")]
    for name in names:
        first = next(s.sources[name] for s in steps if name in s.sources)
        bars = []
        for report in steps:
            entry = report.sources.get(name)
            if entry is None:  # this step did not see the source
                bars.append("<td></td>")
                continue
            part = entry["kept"]["words"] / max(first["in"]["words"], 1)
            bars.append(f'<td><div class="bar"><i style="width:{min(part, 1):.1%}"></i></div>{part:.1%}</td>')
        head = f"<td>{html.escape(name)}</td><td>{first['in']['documents']:,}</td><td>{first['in']['words']:,}</td>"
        lines.append(f"<tr>{head}{''.join(bars)}</tr>")
    return _table(lines)


def _table(lines: Sequence[str], kind: str = "") -> str:
    """A table that scrolls within itself where the page is narrower."""
    return f'<div class="scroll"><table class="{kind}">{"".join(lines)}</table></div>'


def _times(steps: Sequence[StepReport]) -> Iterator[str]:
    """When each step began and how long it took."""
    if found := times(steps):
        head = _cells(["step", "began (UTC)", "starts", "time", "documents per second"], "th")
        yield _table([head, *(_cells(row) for row in found)])


def _removed(report: StepReport) -> Iterator[str]:
    lines = [_cells(row[1:]) for row in rows([report])]
    head = _cells(["source", "rule", "documents", "words", "of the source's words"], "th")
    yield _table([head, *lines])


def _held(report: StepReport) -> Iterator[str]:
    """Which evaluation items the sources held, before this step."""
    if found := held(report):
        head = _cells(["evaluation set", "source", "items held", "of the set", "documents"], "th")
        yield _table([head, *(_cells([*row[:3], f"{row[3]:.2%}", row[4]]) for row in found)])


def _histograms(report: StepReport) -> Iterator[str]:
    if report.rules:
        yield "<p>Bars: documents, the part that the rule removed in red. The first rule takes it.</p>"
    for name, rule in sorted(report.rules.items()):
        pictures = []
        for source, entry in report.sources.items():
            if name in entry["histograms"]:
                picture = histogram(rule, entry["histograms"][name], entry["removed_histograms"].get(name))
                pictures.append(f"<figure>{picture}<figcaption>{html.escape(source)}</figcaption></figure>")
        if pictures:
            summary = f"<summary>{html.escape(name)}</summary>"
            yield f"<details open>{summary}{''.join(pictures)}</details>"


def _examples(report: StepReport) -> Iterator[str]:
    for rule, lines in examples(report).items():
        shown = []
        for line in lines:
            where = " · ".join(str(line[k]) for k in ("source", "id", "url") if line.get(k))
            other = line.get("of_excerpt") or line.get("item_excerpt") or ""
            repeats = " · ".join(str(line[k]) for k in ("of_source", "of_id", "matches") if line.get(k))
            value = f"{line['value']:.4g}" if isinstance(line["value"], float) else line["value"]
            left = f"<b>{html.escape(where)}</b><pre>{html.escape(line['excerpt'])}</pre>"
            right = f"<b>{html.escape(repeats)}</b><pre>{html.escape(other)}</pre>" if other else ""
            shown.append(f"<tr><td>{html.escape(str(value))}</td><td>{left}</td><td>{right}</td></tr>")
        head = _cells(["value", "taken out", "what it repeats"], "th")
        count = sum(m["removed"].get(rule, 0) + m["cut"].get(rule, 0) for m in report.manifests)
        yield f"<details><summary>{html.escape(rule)}: {count:,} removals</summary>"
        yield _table([head, *shown], "examples") + "</details>"
