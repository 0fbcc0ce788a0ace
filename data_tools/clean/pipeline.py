"""The step: judge a batch of records by a preset, edit their texts, and say what went, by which rule and value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.clean.edits import EDITS, RecordFields
from data_tools.clean.lines import LineCut
from data_tools.clean.measures import MEASURES
from data_tools.clean.presets import Preset
from data_tools.clean.repetition import NAMES
from data_tools.clean.view import View
from data_tools.clean.words import Vocabulary
from data_tools.clean.wrapping import unwrap
from data_tools.io.batch import Outcome, Place, Removed, strings, with_column
from data_tools.io.batch import texts as batch_texts

WRAP = "hard line wraps: kept when unwrapped"
EXAMPLES = 50  # cut lines of one text and rule that are written out; all are counted


@lru_cache(maxsize=4)
def vocabulary(segmenter: str) -> Vocabulary:
    """Returns this process's vocabulary."""
    return Vocabulary(segmenter)


@dataclass(frozen=True)
class Decision:
    """What a preset says about a batch of n texts."""

    rule: list[str | None]  # the first rule that each text broke, in the preset's order
    value: np.ndarray  # [n] float64: what that rule measured, nan where none was broken
    also: list[list[str]]  # the other rules it broke
    values: Mapping[str, np.ndarray]  # what every rule measured, [n] float64 each
    texts: list[str]  # as edited
    cuts: list[list[tuple[str, LineCut]]]  # (edit, cut) of each text
    columns: Mapping[str, list]  # found out on the way: `language`, `language_score`

    @property
    def keep(self) -> np.ndarray:
        """True for the texts that broke no rule, `[n] bool`."""
        return np.array([rule is None for rule in self.rule], bool)


def judge(batch: pa.RecordBatch, preset: Preset) -> Decision:
    """Judges a batch with a column `text` (and `url`, … where rules ask for them). Pure: the batch stays as it is."""
    texts = batch_texts(batch)
    n = len(texts)
    grams = [name for name in preset.steps if name in NAMES]
    fields = cached_fields(batch)
    values: dict[str, np.ndarray] = {}
    columns: dict[str, list] = {}
    cuts: list[list[tuple[str, LineCut]]] = [[] for _ in texts]

    memory: dict[str, list[int]] | None = {} if any(name in EDITS for name in preset.steps) else None

    def look(now: Sequence[str]) -> View:
        return View(now, vocabulary(preset.segmenter), grams, preset.characters_per_word, fields, memory)

    view = look(texts)
    wrapped: tuple[list[str], list[str]] = [], []  # as they were, and joined, where the former are to be written
    for name, options in preset.steps.items():
        if name in EDITS:
            before = texts
            texts, measured = _edit(name, options, texts, fields, cuts)
            if name == "unwrap" and options["write"] == "as_is":
                wrapped = list(before), list(texts)
            values |= {k: v for k, v in measured.items() if k in preset.steps}
            if any(new is not old for new, old in zip(texts, view.texts)):
                columns |= view.columns
                view = look(texts)
        elif name in MEASURES:
            values[name] = np.asarray(MEASURES[name].function(view, options), np.float64)
    columns |= view.columns
    first, value, also = _first_broken(preset, values, n)
    if wrapped[0]:
        texts = [old if now is joined else now for now, old, joined in zip(texts, *wrapped)]
    return Decision(first, value, also, values, list(texts), cuts, columns)


def cached_fields(batch: pa.RecordBatch) -> Callable[[str], list[str | None]]:
    """Returns a function from a field's name to its values, each read once."""
    return lru_cache(maxsize=None)(lambda name: strings(batch, name))


def _edit(
    name: str,
    options: Mapping[str, Any],
    texts: Sequence[str],
    fields: Callable[[str], list[str | None]],
    cuts: list[list[tuple[str, LineCut]]],
) -> tuple[list[str], dict[str, np.ndarray]]:
    edit = EDITS[name]
    measured = {rule.name: np.zeros(len(texts)) for rule in edit.measures}
    urls, out = fields("url"), []
    for i, text in enumerate(texts):
        row: RecordFields = {"url": urls[i]}
        new, gone, by_rule = edit.function(text, options, row)
        out.append(text if new == text else new)
        cuts[i].extend((name, cut) for cut in gone)
        for rule, value in by_rule.items():
            measured[rule][i] = value
    return out, measured


def _first_broken(preset: Preset, values: Mapping[str, np.ndarray], n: int) -> tuple:
    first: list[str | None] = [None] * n
    value, also = np.full(n, np.nan), [[] for _ in range(n)]
    for rule in preset.rules():
        measured = values[rule.name]
        low = -np.inf if rule.least is None else rule.least
        high = np.inf if rule.most is None else rule.most
        for i in np.flatnonzero((measured < low) | (measured > high)).tolist():
            if first[i] is None:
                first[i], value[i] = rule.name, measured[i]
            else:
                also[i].append(rule.name)
    return first, value, also


@dataclass(frozen=True)
class Cleaner:
    """The step that `run_shards` runs: a preset applied to batches."""

    preset: Preset

    @cached_property
    def _bounds(self) -> dict[str, dict[str, float | None]]:
        return {rule.name: {"least": rule.least, "most": rule.most} for rule in self.preset.rules()}

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch, and what went."""
        decision = judge(batch, self.preset)
        before = batch_texts(batch)
        wrapped = self._kept_unwrapped(batch, decision)
        removed: list[Removed] = []
        edited: dict[int, str] = {}
        for i, rule in enumerate(decision.rule):
            if rule is None and before[i] and not decision.texts[i].strip():
                removed.append(Removed(i, "nothing_left", float(len(before[i])), _shown(decision.cuts[i])))
            elif rule is not None:
                detail = {**self._bounds[rule], "also": decision.also[i]}
                if i in wrapped:
                    detail["cause"] = WRAP
                removed.append(Removed(i, rule, round(float(decision.value[i]), 6), detail))
            else:
                removed += _parts(i, decision.cuts[i])
                if decision.texts[i] is not before[i]:
                    edited[i] = decision.texts[i]
        return Outcome.of(batch, removed, edited, decision.columns, decision.values)

    def _kept_unwrapped(self, batch: pa.RecordBatch, decision: Decision) -> set[int]:
        """Returns the rows that a rule removed and that would have stayed without their hard line wraps."""
        if "unwrap" in self.preset.steps:
            return set()
        before = batch_texts(batch)
        joined = {i: unwrap(before[i]) for i, rule in enumerate(decision.rule) if rule is not None}
        rows = [i for i, text in joined.items() if text is not before[i]]
        if not rows:
            return set()
        some = batch.take(pa.array(rows))
        text = pa.array([joined[i] for i in rows], batch.schema.field("text").type)
        again = judge(with_column(some, "text", text), self.preset)
        return {i for i, keep in zip(rows, again.keep.tolist()) if keep}


def _by_rule(cuts: Sequence[tuple[str, LineCut]]) -> dict[str, list[LineCut]]:
    out: dict[str, list[LineCut]] = {}
    for edit, cut in cuts:
        out.setdefault(f"{edit}.{cut[0]}", []).append(cut)
    return out


def _shown(cuts: Sequence[tuple[str, LineCut]]) -> dict[str, Any]:
    return {"cut": {rule: len(mine) for rule, mine in _by_rule(cuts).items()}}


def _parts(row: int, cuts: Sequence[tuple[str, LineCut]]) -> list[Removed]:
    """Returns one entry per rule that cut something from a record that stays: how often, where, the beginnings."""
    out = []
    for rule, mine in _by_rule(cuts).items():
        places = [{"line": line, "text": text} for _, line, text in mine[:EXAMPLES] if text]
        detail = {"excerpt": "\n".join(p["text"] for p in places)[:1000], "lines": [p["line"] for p in places]}
        out.append(Removed(row, rule, len(mine), detail, whole=False))
    return out
