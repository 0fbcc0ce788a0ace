"""What the steps of a pipeline did to each source: a table for the terminal and a page to look at.

Read from the manifests and removals that the steps left; nothing is computed anew.
"""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.io import storage
from data_tools.io.batch import Rule
from data_tools.shards.counts import total
from data_tools.shards.records import removals

EXAMPLES = 6  # shown of each rule
MARK = "<h2>What stayed</h2>"  # is in every page, and tells ours from another


@dataclass(frozen=True)
class Seen:
    """A step's folder: its name, the shards' manifests, the counts per source."""

    name: str
    folder: str
    manifests: list[dict]
    sources: dict[str, dict]

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules that were measured."""
        return {name: Rule(name, **facts) for m in self.manifests for name, facts in m["rules"].items()}


def look(folder: str | Path) -> list[Seen]:
    """Returns the steps found in a step's folder or in a pipeline's workdir, in the order in which they ran."""
    folder = str(folder)
    names = [n.removesuffix(".json") for n in storage.list_names(storage.join(folder, "steps"), ".json")]
    notes = {n: storage.read_json(storage.join(folder, "steps", f"{n}.json")) for n in names}
    order = sorted((n for n in names if "number" in (notes[n] or {})), key=lambda n: notes[n]["number"])
    found = [_look(storage.join(folder, n), n) for n in order] or [_look(folder, folder.rstrip("/").rsplit("/", 1)[-1])]
    return [seen for seen in found if seen.manifests]


def _look(folder: str, name: str) -> Seen:
    place = storage.join(folder, "manifests")
    read = (storage.read_json(storage.join(place, n)) for n in storage.list_names(place, ".json"))
    manifests = [m for m in read if m and "rows" in m]
    return Seen(name, folder, manifests, total(manifests))


def lost(entry: Mapping[str, Any], unit: str = "documents") -> float:
    """Returns the share of a source that a step took out."""
    return 1 - entry["kept"][unit] / entry["in"][unit] if entry["in"][unit] else 0.0


def alarms(steps: Sequence[Seen], share: float) -> list[str]:
    """Returns a line for every source that lost more than `share` of its documents or words in one step."""
    lines = []
    for seen in steps:
        for source, entry in seen.sources.items():
            units = ("documents",) if seen.manifests[0]["step"] == "extract" else ("documents", "words")
            by = {unit: lost(entry, unit) for unit in units}  # of HTML most words are no text
            if max(by.values()) > share:
                rules = sorted(entry["removed"].items(), key=lambda r: -r[1]["documents"])[:3]
                most = ", ".join(f"{rule} {amount['documents']:,}" for rule, amount in rules) or "parts cut out"
                line = f"warning: {seen.name}: {source} lost {by['documents']:.0%} of {entry['in']['documents']:,} "
                lines.append(f"{line}documents, {lost(entry, 'words'):.0%} of its words (alarm at {share:.0%}): {most}")
    return lines


def rows(steps: Sequence[Seen]) -> list[tuple]:
    """Returns a row per step, source and rule: documents, words, and the share of the source's words."""
    out = []
    for seen in steps:
        for source, entry in seen.sources.items():
            before = max(entry["in"]["words"], 1)
            out.append((seen.name, source, "", entry["in"]["documents"], entry["in"]["words"], ""))
            for rule, amount in sorted(entry["removed"].items(), key=lambda r: -r[1]["words"]):
                share = f"-{amount['words'] / before:.2%}"
                out.append((seen.name, source, rule, -amount["documents"], -amount["words"], share))
            cut = entry["in"]["words"] - entry["kept"]["words"] - sum(a["words"] for a in entry["removed"].values())
            if entry["cut"]:
                parts = ", ".join(f"{rule} ×{n:,}" for rule, n in sorted(entry["cut"].items()))
                out.append((seen.name, source, f"parts: {parts}", 0, -cut, f"-{cut / before:.2%}"))
    return out


def examples(seen: Seen) -> dict[str, list[dict]]:
    """Returns up to `EXAMPLES` removals of every rule, spread over what was removed by a hash of their text."""
    kept: dict[str, list[tuple[str, dict]]] = {}
    for line in removals(seen.folder, seen.manifests):
        mine = kept.setdefault(line["rule"], [])
        key = storage.digest(json.dumps(line, sort_keys=True))
        if len(mine) < EXAMPLES or key < mine[-1][0]:
            mine.append((key, line))
            mine.sort(key=lambda e: e[0])
            del mine[EXAMPLES:]
    return {rule: [line for _, line in mine] for rule, mine in sorted(kept.items())}


def histogram(rule: Rule, bins: Sequence[int]) -> str:
    """Returns a picture (SVG) of a rule's values: bars, red beyond the thresholds, which are drawn as lines."""
    width, height, foot = 360, 110, 18
    edges, tallest = rule.edges(), max(max(bins), 1)

    def x(value: float) -> float:
        low, high, value = (
            np.log(v) if rule.log else v for v in (rule.low, rule.high, np.clip(value, rule.low, rule.high))
        )
        return float((value - low) / (high - low) * width)

    parts = []
    for i, n in enumerate(bins):
        if not n:
            continue
        out = rule.least is not None and edges[i + 1] <= rule.least
        out |= rule.most is not None and edges[i] >= rule.most and i > 0
        tall = max(1.0, np.sqrt(n / tallest) * (height - 4))  # square root: rare values stay visible
        left, right = x(edges[i]), x(edges[i + 1])
        place = f'x="{left:.1f}" y="{height - tall:.1f}" width="{max(right - left - 0.6, 0.6):.1f}" height="{tall:.1f}"'
        parts.append(
            f"<rect {place} "
            f'class="{"out" if out else "in"}"><title>{edges[i]:.4g} … {edges[i + 1]:.4g}: {n:,}</title></rect>'
        )
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


def page(steps: Sequence[Seen], title: str, share: float) -> str:
    """Returns the report as one HTML page that needs nothing else."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    warned = alarms(steps, share)
    body += [f'<p class="alarm">{html.escape(line)}</p>' for line in warned]
    body += [MARK, _overview(steps)]
    for seen in steps:
        body.append(f"<h2>{html.escape(seen.name)}</h2>")
        problems = sum(m["quarantined"] for m in seen.manifests)
        repaired = sum(m["repaired"] for m in seen.manifests)
        body.append(f"<p>{problems:,} records in quarantine, {repaired:,} texts with repaired characters.</p>")
        body += [*_removed(seen), *_histograms(seen), *_examples(seen)]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _cells(values: Sequence[Any], tag: str = "td") -> str:
    made = (f"{v:,}" if isinstance(v, int) else html.escape(str(v)) for v in values)
    return "<tr>" + "".join(f"<{tag}>{v}</{tag}>" for v in made) + "</tr>"


def _overview(steps: Sequence[Seen]) -> str:
    """A row per source: words that came in, and a bar of what each step left."""
    names = sorted({source for seen in steps for source in seen.sources})
    lines = [_cells(["source", "documents", "words", *(f"after {s.name}" for s in steps)], "th")]
    for name in names:
        first = next(s.sources[name] for s in steps if name in s.sources)
        bars = []
        for seen in steps:
            entry = seen.sources.get(name)
            if entry is None:  # this step did not see the source
                bars.append("<td></td>")
                continue
            part = entry["kept"]["words"] / max(first["in"]["words"], 1)
            bars.append(f'<td><div class="bar"><i style="width:{min(part, 1):.1%}"></i></div>{part:.1%}</td>')
        head = f"<td>{html.escape(name)}</td><td>{first['in']['documents']:,}</td><td>{first['in']['words']:,}</td>"
        lines.append(f"<tr>{head}{''.join(bars)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _removed(seen: Seen) -> Iterator[str]:
    lines = [_cells(row[1:]) for row in rows([seen])]
    head = _cells(["source", "rule", "documents", "words", "of the source's words"], "th")
    yield f"<table>{head}{''.join(lines)}</table>"


def _histograms(seen: Seen) -> Iterator[str]:
    for name, rule in sorted(seen.rules.items()):
        pictures = []
        for source, entry in seen.sources.items():
            if name in entry["histograms"]:
                picture = histogram(rule, entry["histograms"][name])
                pictures.append(f"<figure>{picture}<figcaption>{html.escape(source)}</figcaption></figure>")
        if pictures:
            yield f"<details open><summary>{html.escape(name)}</summary>{''.join(pictures)}</details>"


def _examples(seen: Seen) -> Iterator[str]:
    for rule, lines in examples(seen).items():
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
        count = sum(m["removed"].get(rule, 0) + m["cut"].get(rule, 0) for m in seen.manifests)
        yield f"<details><summary>{html.escape(rule)}: {count:,} removals</summary>"
        yield f'<table class="examples">{head}{"".join(shown)}</table></details>'
