"""`jaxpt-data classify`: train a classifier on labelled text, apply it, or mine a pool for text like a seed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from data_tools.classify.judge import Judgement, held_out, judge, picture
from data_tools.classify.labels import LabelNames
from data_tools.classify.model import Classifier
from data_tools.classify.recall import MiningBudget, PoolText, recall
from data_tools.classify.recipes import RECIPES, Recipe, recipe
from data_tools.classify.share import Cut, Ranking, ties
from data_tools.io import ownership, storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, texts
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import BytesRead, Problem, read_batches
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine, rows_of
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option
from jaxpt.errors import JaxptError

EXAMPLE = """examples:
  jaxpt-data classify --train='labelled/*.jsonl.gz' --recipe=topic --model=topics.bin
  jaxpt-data classify --input='web/*.jsonl.gz' --model=quality.bin --keep=0.1 --output=good
  jaxpt-data classify --seed='math/*.jsonl.gz' --input='web/*.jsonl.gz' --recipe=math --top_tokens=5000 --output=m"""


def _show(seen: Judgement, model: str, count: int) -> None:
    """Writes `MODEL.heldout.json` and the picture, and prints the table."""
    storage.write_json(model + ".heldout.json", seen.to_dict())
    with storage.new_file(model + ".heldout.html") as file:
        file.write_text(picture(seen, f"{model.rsplit('/', 1)[-1]}: {count:,} held-out texts"), encoding="utf-8")
    rows = [(s.label, s.examples, s.precision, s.recall, s.f1) for s in seen.labels]
    print(table(["label", "held out", "precision", "recall", "F1"], rows))
    print(f"accuracy {seen.accuracy:.3f}, calibration error {seen.calibration.error:.3f}; {model}.heldout.html")


@dataclass(frozen=True)
class Label:
    """The batch step: labels every document, or drops those that rank behind the cut."""

    model: str
    cut: Cut | None = None  # None: only label

    @cached_property
    def _classifier(self) -> Classifier:
        return Classifier.load(self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "cut": self.cut}  # a worker loads the model itself

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        labels = self._classifier.labels
        chances = np.asarray(self._classifier.probabilities(texts(batch)), np.float64).reshape(len(batch), len(labels))
        if self.cut is None:
            best = chances.argmax(axis=1)
            columns = {"class": [labels[i] for i in best], "class_probability": chances.max(axis=1)}
            return Outcome.of(batch, columns=columns)
        scores = chances[:, labels.index(self._classifier.recipe.positive)]
        margins = self._classifier.margins(texts(batch))
        low = np.flatnonzero(~self.cut.stays(margins, ties(place.shard, place.row, len(batch)))).tolist()
        detail = {"threshold": self.cut.value}
        removed = [Removed(row, "classify", float(margins[row]), {**detail, "score": scores[row]}) for row in low]
        columns = {"class_score": scores, "class_margin": margins}
        return Outcome.of(batch, removed, columns=columns, statistics={"classify": scores})


@dataclass(frozen=True)
class KeepRecalled:
    """The batch step: only the documents that mining recalled stay, with their score."""

    scores: Mapping[str, float]  # by shard and row

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        scores = [self.scores.get(f"{place.shard}#{place.row + i}") for i in range(len(batch))]
        removed = [Removed(i, "not-recalled", None, {"excerpt": ""}) for i, score in enumerate(scores) if score is None]
        return Outcome.of(batch, removed, columns={"class_score": pa.array(scores, pa.float64())})


SCORE = Rule("classify")


@dataclass(frozen=True)
class Classify(DocumentStep):
    """Train and apply text classifiers; mine text like a seed."""

    example: ClassVar[str] = EXAMPLE

    train: str | None = option(None, "globs of labelled records: trains --model")
    input: str | None = option(None, "globs of records to classify or to mine")
    seed: str | None = option(None, "globs of records that are what is wanted: mines --input")
    output: str | None = option(None, "folder of the outputs")
    model: str | None = option(None, "the classifier's file")
    recipe: str = option("quality", ", ".join(RECIPES))
    set: tuple[str, ...] = option((), "a setting of the recipe", metavar="KEY=VALUE")
    label_field: str = option("label", "of labelled records: the label")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    text_field: str = option("text", "of records: where the text is")
    keep: float | None = option(None, "share of --input to keep, best ranks first (default: only label)")
    rounds: int = option(4, "of mining")
    top_tokens: int = option(0, "budget of mining")
    domain_rate: float = option(0.1, "share of recalled pages that makes a domain good")
    workers: int = option(1, "processes over shards; 0: one per core", changes_output=False)

    def run(self) -> None:
        """Trains, mines or applies, by what is given."""
        check_limit(self.quarantine_limit)
        inputs = {f"--{name}": getattr(self, name) for name in ("train", "seed", "input")}
        written = {"--model": self.model} if self.train else {}
        check_outputs(inputs, {"--output": None if self.train else self.output}, written)
        if self.train:
            self._train()
            return
        if self.seed:
            if not (self.input and self.output and self.top_tokens > 0):
                raise JaxptError("classify --seed needs --input (the pool), --output and --top_tokens (the budget)")
            with ownership.writing(self.output, "classify"):
                self._mine()
            return
        if not self.input:
            raise JaxptError(
                "classify: give --train (labelled text), --input (to classify), or --seed and --input (to mine)"
            )
        if not (self.model and self.output):
            raise JaxptError("classify --input needs --model and --output")
        with ownership.writing(self.output, "classify"):
            self._apply()

    def _settings(self) -> Recipe:
        values = {}
        for pair in self.set:
            key, separator, value = pair.partition("=")
            if not separator:
                raise JaxptError(f"--set={pair}: write KEY=VALUE")
            try:
                values[key] = json.loads(value)
            except ValueError:
                values[key] = value
        return recipe(self.recipe, **values)

    def _train(self) -> None:
        if not self.model:
            raise JaxptError("classify --train needs --model, the file to write")
        _check_model(self.model)
        settings = self._settings()
        rows, names = [], LabelNames()
        for shard, row in rows_of(open_shards(self.train, self.text_field, caps=self.caps), "labelled text"):
            record = f"{shard.path}: record {row.get('id') or 'beginning ' + repr(row['text'][:40])}"
            if row.get(self.label_field) is None:
                raise JaxptError(f"{record} has no {self.label_field!r}; name it by --label_field")
            label = names.name(row[self.label_field], record)
            rows.append((row["text"], label))
        test = [r for r in rows if held_out(r[0], settings.held_out, settings.seed)]
        train = (r for r in rows if not held_out(r[0], settings.held_out, settings.seed))
        classifier = Classifier.train(train, settings)
        judgement = judge(classifier.probabilities([t for t, _ in test]), [l for _, l in test], classifier.labels)
        classifier.save(self.model)
        _show(judgement, self.model, len(test))

    def _apply(self) -> None:
        classifier = Classifier.load(self.model)
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        cut = None if self.keep is None else _cut(classifier, shards, self.keep)
        digest = sha256(Path(self.model).read_bytes()).hexdigest()
        settings = {"model": digest, "keep": self.keep, "inputs": [s.fingerprint for s in shards]}
        if cut:
            settings["ranked by"] = "log-odds"  # shards that were cut by probability, before, are done again
        step = Label(self.model, cut)
        manifests = run_shards(shards, self.output, settings, step, "classify", [SCORE], self.workers)
        counts = [(m["name"], m["rows"], m["kept"], m["quarantined"]) for m in manifests]
        print(table(["shard", "documents", "kept", "in quarantine"], counts))
        if cut:
            print(f"log-odds from {cut.value:.6g} on: {cut.documents:,} documents, {cut.kept:.2%} (--keep={cut.keep})")
        report = {"threshold": cut and asdict(cut), "shards": manifests}
        storage.write_json(storage.join(self.output, "classify.json"), report)
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)

    def _mine(self) -> None:
        seed = [row["text"] for _, row in rows_of(open_shards(self.seed, self.text_field, caps=self.caps), "seed")]
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)

        def pool() -> Iterator[PoolText]:
            for shard in shards:
                for i, row in enumerate(shard.rows()):
                    yield PoolText(f"{shard.name}#{i}", row["text"], str(row.get("url") or ""))

        budget = MiningBudget(self.top_tokens, self.rounds, self.domain_rate)
        settings = self._settings()
        mined = recall(seed, pool, settings, budget)

        prints = [s.fingerprint for s in [*open_shards(self.seed, self.text_field, caps=self.caps), *shards]]
        key = {"plan": asdict(budget), "recipe": asdict(settings), "inputs": prints}
        step = KeepRecalled(mined.scores)
        manifests = run_shards(shards, self.output, key, step, "write", [SCORE], self.workers)
        mined.classifier.save(Path(self.output) / "model.bin")
        report = {"rounds": [asdict(r) for r in mined.rounds], "shards": manifests}
        storage.write_json(storage.join(self.output, "recall.json"), report)
        counts = ["positives", "negatives", "threshold", "documents", "tokens", "new tokens", "precision", "recall"]
        lines = [(*list(asdict(r).values())[:9], r.calibration_error, len(r.domains)) for r in mined.rounds]
        print(table(["round", *counts, "calibration error", "good domains"], lines))
        _show(mined.judgement, storage.join(self.output, "model.bin"), int(mined.judgement.confusion.sum()))
        lost = [(m["name"], m["rows"], m["kept"], m["quarantined"]) for m in manifests]
        print(table(["shard", "documents", "kept", "in quarantine"], lost))
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)


def _cut(classifier: Classifier, shards: Sequence[FileShard], keep: float) -> Cut:
    """Scores all documents and returns where the best `keep` of them ends."""
    ranking = Ranking()
    with progress(sum(s.size for s in shards), "score", "B", scale=True) as bar:
        for shard in shards:
            position, counted, first = BytesRead(), 0, 0
            for batch, _ in read_batches(shard.path, shard.field, position, shard.caps):
                bar.update(position.bytes - counted)
                counted = position.bytes
                if not isinstance(batch, Problem):
                    ranking.add(classifier.margins(texts(batch)), ties(shard.name, first, len(batch)))
                    first += len(batch)
            bar.update(shard.size - counted)
    return ranking.cut(keep)


def _check_model(model: str) -> None:
    """Refuses to write over files that are not a model of this command and what lies beside it."""
    marks = {".json": '"recipe"', ".heldout.json": '"calibration"', ".heldout.html": "calibration error"}
    for name, mark in marks.items():
        ownership.check_file(model + name, mark)
    if Path(model).exists() and not Path(model + ".json").exists():
        raise JaxptError(
            f"--model={model} exists and has no {model}.json: it is not a model of this command; "
            f"give another --model, or move it away"
        )


HELP = Classify.summary()
main = Classify.main
