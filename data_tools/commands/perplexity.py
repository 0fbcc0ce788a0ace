"""`jaxpt-data perplexity`: score documents and cut both tails by quantiles per language and source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from data_tools.io import ownership, storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, strings
from data_tools.io.outputs import check_outputs
from data_tools.perplexity.ngram import NgramModel
from data_tools.perplexity.scorers import KenlmScorer, Scorer
from data_tools.perplexity.tails import CURVE, TailCut, Tails, cuts
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine, rows_of
from jaxpt.cli.terminal import table
from jaxpt.config.choice import option
from jaxpt.errors import JaxptError

EXAMPLE = """example:
  jaxpt-data perplexity --input=dedup --output=scored --train='wiki/*.jsonl.gz' --low=0.05 --high=0.9"""
BATCH = 256


def _text_of(row: Mapping[str, Any], field: str) -> str:
    """Returns a field that names a group, empty where it is no text."""
    value = row.get(field)
    return value if isinstance(value, str) else ""


def _scores(rows: Sequence[Mapping[str, Any]], models: Mapping[str, Scorer], field: str) -> np.ndarray:
    out = np.full(len(rows), np.nan)
    languages = [_text_of(row, field) for row in rows]
    for name in set(languages):
        mine = [i for i, l in enumerate(languages) if l == name]
        model = models.get(name) or models.get("")
        if model is not None:
            out[mine] = model.perplexities([rows[i]["text"] for i in mine])
    return out


@dataclass(frozen=True)
class CutTails:
    """The batch step: documents outside their group's quantiles go; the others get their perplexity as a field."""

    scores: Mapping[str, np.ndarray]  # by shard
    cuts: Mapping[tuple[str, str], TailCut]  # by language and source
    language_field: str
    source_field: str

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        scores = self.scores[place.shard][place.row : place.row + len(batch)]
        groups = zip(strings(batch, self.language_field), strings(batch, self.source_field))
        removed = []
        for row, ((language, source), score) in enumerate(zip(groups, scores, strict=True)):
            cut = self.cuts[language or "", source or ""]
            verdict = cut.verdict(float(score))
            if verdict in ("low", "high"):
                limits = {"low": cut.low, "high": cut.high, "basis": cut.basis}
                removed.append(Removed(row, f"perplexity-{verdict}", float(score), limits))
        # without a model for its language, or without words, a document cannot be judged: it stays, without a value
        column = pa.array(scores, pa.float64(), from_pandas=True)
        return Outcome.of(batch, removed, columns={"perplexity": column}, statistics={"perplexity": scores})


RULE = Rule("perplexity", low=1.0, high=1e6, log=True)


@dataclass(frozen=True)
class Perplexity(DocumentStep):
    """Cut the most and the least surprising documents, per language and source."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="globs of records")
    output: str = option(doc="folder: shards of the same names, removals, perplexity.json")
    train: str | None = option(None, "globs of good text: an n-gram model is counted on it, one per language")
    kenlm: str | None = option(None, "a KenLM model file instead (all languages)")
    model: str | None = option(None, "a jaxpt bundle instead (all languages), on all devices")
    batch_size: int = option(8, "of --model, a multiple of the number of devices", changes_output=False)
    sequence_length: int = option(1024, "of --model")
    order: int = option(3, "of the n-gram model")
    max_tokens: int = option(20_000_000, "tokens counted per language")
    low: float = option(Tails.low, "quantile below which documents go")
    high: float = option(Tails.high, "quantile above which documents go")
    least: int = option(Tails.least, "smaller groups use their language's quantiles")
    language_field: str = option("lang", "of records: the language")
    source_field: str = option("source", "of records: the source")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    text_field: str = option("text", "of records: where the text is")
    workers: int = option(1, "processes over shards; 0: one per core", changes_output=False)

    def run(self) -> None:
        """Scores all documents, then writes shard after shard; finished shards are not written again."""
        tails = Tails(self.low, self.high, self.least)
        tails.check()
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input, "--train": self.train}, {"--output": self.output})
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        with ownership.writing(self.output, "perplexity"):
            self._write(shards, tails)

    def _models(self) -> dict[str, Scorer]:
        """What scores, by language; "" for all."""
        if sum(map(bool, (self.train, self.kenlm, self.model))) != 1:
            raise JaxptError("perplexity: give one of --train (text for an n-gram model), --kenlm and --model")
        if self.model:
            from data_tools.perplexity.jaxpt_model import open_scorer  # JAX starts only where it is used

            return {"": open_scorer(self.model, batch_size=self.batch_size, sequence_length=self.sequence_length)}
        if self.kenlm:
            return {"": KenlmScorer(self.kenlm)}
        shards = open_shards(self.train, self.text_field, caps=self.caps)
        languages = sorted({_text_of(row, self.language_field) for _, row in rows_of(shards, "languages")})
        if not languages:
            raise JaxptError(f"--train={self.train} holds no records with a string field {self.text_field!r}")

        def texts(language: str) -> Iterator[str]:
            for _, row in rows_of(shards, "training text", warn=False):
                if _text_of(row, self.language_field) == language:
                    yield row["text"]

        return {language: NgramModel.train(texts(language), self.order, self.max_tokens) for language in languages}

    def _write(self, shards: Sequence[FileShard], tails: Tails) -> None:
        scores, languages, sources = self._score(shards)
        cut_of = cuts(np.concatenate(list(scores.values())), languages, sources, tails)
        step = CutTails(scores, cut_of, self.language_field, self.source_field)
        settings = {**asdict(self), "inputs": [s.fingerprint for s in shards]}
        settings["train"] = [s.fingerprint for s in open_shards(self.train, caps=self.caps)] if self.train else None
        for name in ("output", "workers", "quarantine_limit", *asdict(self.caps)):
            settings.pop(name)
        manifests = run_shards(shards, self.output, settings, step, "perplexity", [RULE], self.workers)
        lines = [(c.language, c.source, c.texts, c.basis, c.low, c.high) for c in cut_of.values()]
        print(table(["language", "source", "texts", "quantiles of", "low", "high"], lines))
        counts = [(m["name"], m["rows"], m["kept"], m["quarantined"]) for m in manifests]
        print(table(["shard", "documents", "kept", "in quarantine"], counts))
        unjudged = int(sum(np.isnan(s).sum() for s in scores.values()))
        if unjudged:
            print(f"{unjudged:,} documents have no words or no model for their language: kept unjudged")
        report = {"quantiles": CURVE, "cuts": [asdict(c) for c in cut_of.values()], "shards": manifests}
        storage.write_json(storage.join(self.output, "perplexity.json"), report)
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)

    def _score(self, shards: Sequence[FileShard]) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
        """Returns the scores by shard, float64, and of all documents in order the languages and the sources."""
        models = self._models()
        parts: dict[str, list[np.ndarray]] = {shard.name: [np.zeros(0)] for shard in shards}
        languages: list[str] = []
        sources: list[str] = []
        rows = rows_of(shards, "score", warn=False)
        while batch := list(islice(rows, BATCH)):
            scores = _scores([row for _, row in batch], models, self.language_field)
            for name in dict.fromkeys(shard.name for shard, _ in batch):
                mine = np.array([shard.name == name for shard, _ in batch])
                parts[name].append(scores[mine])
            languages += [_text_of(row, self.language_field) for _, row in batch]
            sources += [_text_of(row, self.source_field) for _, row in batch]
        return {name: np.concatenate(part) for name, part in parts.items()}, languages, sources


HELP = Perplexity.summary()
main = Perplexity.main
