"""What a step did to a shard, counted per source and rule: the body of its manifest."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.io.batch import Outcome, Rule, count_words, strings

SOURCES = 100  # named in a shard's counts; further ones are counted together
OTHERS = "(other sources)"


def _amount() -> dict[str, int]:
    return {"documents": 0, "bytes": 0, "words": 0}


def _entry() -> dict[str, Any]:
    kept = {"in": _amount(), "kept": _amount(), "removed": {}, "cut": {}, "causes": {}}
    return {**kept, "histograms": {}, "removed_histograms": {}}


class Counts:
    """Adds up outcomes: documents, bytes and words that came in, stayed, and went by rule; histograms of every rule."""

    def __init__(self, shard: str, rules: Sequence[Rule] = ()):
        """Starts at nothing; records without a `source` are counted under the shard's name."""
        self._shard, self._rules = shard, {r.name: r for r in rules}
        self.rows = self.kept = self.quarantined = self.repaired = 0
        self._sources: dict[str, dict[str, Any]] = {}

    def _source(self, name: str) -> dict[str, Any]:
        if name not in self._sources and len(self._sources) >= SOURCES:
            name = OTHERS
        return self._sources.setdefault(name, _entry())

    def add(self, batch: pa.RecordBatch, outcome: Outcome) -> None:
        """Counts what a step made of a batch."""
        self.rows += len(batch)
        self.kept += len(outcome.kept)
        names, sizes, words = _measures(batch, self._shard)
        none, by_rule = np.zeros(len(batch), bool), {}
        for gone in outcome.removed:
            by_rule.setdefault(gone.rule, none.copy())[gone.row] = True
        for name in dict.fromkeys(names):
            mine = np.array([n == name for n in names])
            entry = self._source(name)
            _add(entry["in"], int(mine.sum()), int(sizes[mine].sum()), int(words[mine].sum()))
            for rule, values in outcome.statistics.items():
                if rule in self._rules:
                    counted = self._rules[rule].count(np.asarray(values, np.float64)[mine])
                    _add_bins(entry["histograms"], rule, counted.tolist())
                    taken = mine & by_rule.get(rule, none)
                    if taken.any():
                        bins = self._rules[rule].count(np.asarray(values, np.float64)[taken])
                        _add_bins(entry["removed_histograms"], rule, bins.tolist())
        kept_names, kept_sizes, kept_words = _measures(outcome.kept, self._shard)
        for name, size, word in zip(kept_names, kept_sizes.tolist(), kept_words.tolist()):
            _add(self._source(name)["kept"], 1, size, word)
        for gone in outcome.removed:
            source = self._source(names[gone.row])
            if cause := gone.detail.get("cause"):
                source["causes"][cause] = source["causes"].get(cause, 0) + 1
            entry = source["removed" if gone.whole else "cut"]
            if gone.whole:
                size, word = int(sizes[gone.row]), int(words[gone.row])
                _add(entry.setdefault(gone.rule, _amount()), 1, size, word)
            else:
                entry[gone.rule] = entry.get(gone.rule, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as plain values."""
        totals: dict[str, dict[str, int]] = {"removed": {}, "cut": {}}
        for entry in self._sources.values():
            for rule, amount in entry["removed"].items():
                totals["removed"][rule] = totals["removed"].get(rule, 0) + amount["documents"]
            for rule, parts in entry["cut"].items():
                totals["cut"][rule] = totals["cut"].get(rule, 0) + parts
        rules = {r.name: {k: v for k, v in vars(r).items() if k != "name"} for r in self._rules.values()}
        whole = {k: getattr(self, k) for k in ("rows", "kept", "quarantined", "repaired")}
        return {**whole, **totals, "rules": rules, "sources": self._sources}


def _measures(batch: pa.RecordBatch, shard: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    names = [shard if name is None else name for name in strings(batch, "source")]
    sizes = pc.binary_length(batch.column("text")).to_numpy(zero_copy_only=False)
    return names, sizes, count_words(batch)


def _add(amount: dict[str, int], documents: int, size: int, words: int) -> None:
    amount["documents"] += documents
    amount["bytes"] += size
    amount["words"] += words


def _add_bins(histograms: dict[str, list[int]], rule: str, bins: Sequence[int]) -> None:
    before = histograms.get(rule, [0] * len(bins))
    histograms[rule] = [a + b for a, b in zip(before, bins)]


def total(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the counts per source of several shards' manifests added up."""
    out: dict[str, dict[str, Any]] = {}
    for manifest in manifests:
        for name, entry in manifest["sources"].items():
            into = out.setdefault(name, _entry())
            for side in ("in", "kept"):
                _add(into[side], *(entry[side][k] for k in ("documents", "bytes", "words")))
            for rule, amount in entry["removed"].items():
                _add(into["removed"].setdefault(rule, _amount()), *(amount[k] for k in ("documents", "bytes", "words")))
            for rule, parts in entry["cut"].items():
                into["cut"][rule] = into["cut"].get(rule, 0) + parts
            for cause, documents in entry.get("causes", {}).items():
                into["causes"][cause] = into["causes"].get(cause, 0) + documents
            for kind in ("histograms", "removed_histograms"):  # manifests of earlier versions have only the first
                for rule, bins in entry.get(kind, {}).items():
                    _add_bins(into[kind], rule, bins)
    return dict(sorted(out.items()))
