"""What the steps of a pipeline did to each source: counts, alarms and examples.

Read from the manifests and removals that the steps left; nothing is computed again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.io import ownership, storage
from data_tools.io.batch import Rule
from data_tools.shards.alarms import Loss, warnings
from data_tools.shards.counts import total
from data_tools.shards.records import removals
from jaxpt.data import contamination

EXAMPLES = 6  # shown of each rule


@dataclass(frozen=True)
class StepReport:
    """A step's folder: its name, the shards' manifests, the counts per source."""

    name: str
    folder: str
    manifests: list[dict]
    sources: dict[str, dict]
    note: Mapping[str, Any] = field(default_factory=dict)  # of the folder: when it was begun, how long it took

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules that were measured."""
        return {name: Rule(name, **facts) for m in self.manifests for name, facts in m["rules"].items()}


def look(folder: str | Path) -> list[StepReport]:
    """Returns the steps found in a step's folder or in a pipeline's workdir, in the order in which they ran."""
    folder = str(folder)
    names = [n.removesuffix(".json") for n in storage.list_names(storage.join(folder, "steps"), ".json")]
    notes = {n: storage.read_json(storage.join(folder, "steps", f"{n}.json")) for n in names}
    order = sorted((n for n in names if "number" in (notes[n] or {})), key=lambda n: notes[n]["number"])
    reports = [_look(storage.join(folder, n), n) for n in order] or [
        _look(folder, folder.rstrip("/").rsplit("/", 1)[-1])
    ]
    return [report for report in reports if report.manifests]


def _look(folder: str, name: str) -> StepReport:
    place = storage.join(folder, "manifests")
    read = (storage.read_json(storage.join(place, n)) for n in storage.list_names(place, ".json"))
    manifests = [m for m in read if m and "rows" in m]
    return StepReport(name, folder, manifests, total(manifests), ownership.read_note(folder) or {})


def held(report: StepReport) -> list[list[object]]:
    """Returns rows (set, source, items held, share of the set, documents) of what a step found of evaluation sets."""
    if not storage.list_names(report.folder, contamination.NAME):
        return []
    return contamination.read(storage.join(report.folder, contamination.NAME)).table()


def times(steps: Sequence[StepReport]) -> list[tuple]:
    """Returns a row per step that noted it: when it began (UTC), its starts, its seconds, documents per second."""
    out = []
    for report in steps:
        if "began" in report.note:
            began, starts = str(report.note["began"])[:16].replace("T", " "), int(report.note.get("starts", 1))
            seconds, documents = report.note.get("seconds"), sum(m["rows"] for m in report.manifests)
            rate = f"{documents / seconds:,.0f}" if seconds else ""
            out.append((report.name, began, starts, _duration(seconds), rate))
    return out


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not finished"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes else f"{seconds:.1f} s"


def lost(entry: Mapping[str, Any], unit: str = "documents") -> float:
    """Returns the share of a source that a step took out."""
    return 1 - entry["kept"][unit] / entry["in"][unit] if entry["in"][unit] else 0.0


def alarms(steps: Sequence[StepReport], share: float) -> list[str]:
    """Returns a line for every source that lost more than `share` of its documents or words in one step.

    Sources of few documents have one line together.
    """
    lines = []
    for report in steps:
        losses = []
        for source, entry in report.sources.items():
            units = ("documents",) if report.manifests[0]["step"] == "extract" else ("documents", "words")
            by = {unit: lost(entry, unit) for unit in units}  # of HTML most words are no text
            rules = sorted(entry["removed"].items(), key=lambda r: -r[1]["documents"])[:3]
            most = ", ".join(f"{rule} {amount['documents']:,}" for rule, amount in rules) or "parts cut out"
            most += "".join(f"; {n:,} for {cause}" for cause, n in entry.get("causes", {}).items())
            line = f"warning: {report.name}: {source} lost {by['documents']:.0%} of {entry['in']['documents']:,} "
            line += f"documents, {lost(entry, 'words'):.0%} of its words (alarm at {share:.0%}): {most}"
            before, after = entry["in"]["documents"], entry["kept"]["documents"]
            losses.append(Loss(source, before, after, max(by.values()), line))
        lines += warnings(losses, share, f"{report.name}: ")
    return lines


def rows(steps: Sequence[StepReport]) -> list[tuple]:
    """Returns a row per step, source and rule: documents, words, and the share of the source's words."""
    out = []
    for report in steps:
        for source, entry in report.sources.items():
            before = max(entry["in"]["words"], 1)
            out.append((report.name, source, "", entry["in"]["documents"], entry["in"]["words"], ""))
            for rule, amount in sorted(entry["removed"].items(), key=lambda r: -r[1]["words"]):
                share = f"-{amount['words'] / before:.2%}"
                out.append((report.name, source, rule, -amount["documents"], -amount["words"], share))
            cut = entry["in"]["words"] - entry["kept"]["words"] - sum(a["words"] for a in entry["removed"].values())
            if entry["cut"]:
                parts = ", ".join(f"{rule} ×{n:,}" for rule, n in sorted(entry["cut"].items()))
                out.append((report.name, source, f"parts: {parts}", 0, -cut, f"-{cut / before:.2%}"))
    return out


def examples(report: StepReport) -> dict[str, list[dict]]:
    """Returns up to `EXAMPLES` removals of every rule, spread over what was removed by a hash of their text."""
    kept: dict[str, list[tuple[str, dict]]] = {}
    for line in removals(report.folder, report.manifests):
        mine = kept.setdefault(line["rule"], [])
        key = storage.digest(json.dumps(line, sort_keys=True))
        if len(mine) < EXAMPLES or key < mine[-1][0]:
            mine.append((key, line))
            mine.sort(key=lambda e: e[0])
            del mine[EXAMPLES:]
    return {rule: [line for _, line in mine] for rule, mine in sorted(kept.items())}
