"""`jaxpt-data classify`: train a classifier on labelled text, apply it, or mine a pool for text like a seed."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.classify.judge import Judgement, held_out, judge, picture, quantile_threshold
from data_tools.classify.model import Classifier
from data_tools.classify.recall import Document, Plan, recall
from data_tools.classify.recipes import RECIPES, Recipe, recipe
from data_tools.io import made, storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, texts
from data_tools.io.outputs import check_outputs
from data_tools.shards.records import open_shards, run_shards
from data_tools.shards.rows import rows_of, tell_quarantine
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.errors import JaxptError

HELP = "train and apply text classifiers; mine text like a seed"

EXAMPLE = """examples:
  jaxpt-data classify --train='labelled/*.jsonl.gz' --recipe=topic --model=topics.bin
  jaxpt-data classify --input='web/*.jsonl.gz' --model=quality.bin --keep=0.1 --output=good
  jaxpt-data classify --seed='math/*.jsonl.gz' --input='web/*.jsonl.gz' --recipe=math --top_tokens=4000000 --output=m"""
BATCH = 256


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data classify", HELP, EXAMPLE)
    out.add_argument("--train", help="globs of labelled records: trains --model")
    out.add_argument("--input", help="globs of records to classify or to mine")
    out.add_argument("--seed", help="globs of records that are what is wanted: mines --input")
    out.add_argument("--output", help="folder of the outputs")
    out.add_argument("--model", help="the classifier's file")
    out.add_argument("--recipe", default="quality", help=", ".join(RECIPES))
    out.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    out.add_argument("--label_field", default="label")
    out.add_argument("--text_field", default="text")
    out.add_argument("--keep", type=float, help="share of --input to keep, best scores first (default: only label)")
    out.add_argument("--rounds", type=int, default=4, help="of mining")
    out.add_argument("--top_tokens", type=int, default=0, help="budget of mining")
    out.add_argument("--domain_rate", type=float, default=0.1, help="share of recalled pages that makes a domain good")
    out.add_argument("--workers", type=int, default=1, help="processes over shards; 0: one per core")
    return out


def _settings(args: argparse.Namespace) -> Recipe:
    values = {}
    for pair in args.set:
        key, separator, value = pair.partition("=")
        if not separator:
            raise JaxptError(f"--set={pair}: write KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return recipe(args.recipe, **values)


def _train(args: argparse.Namespace) -> int:
    if not args.model:
        raise JaxptError("classify --train needs --model, the file to write")
    for name, mark in (
        (".json", '"recipe"'),
        (".heldout.json", '"calibration"'),
        (".heldout.html", "calibration error"),
    ):
        made.check_file(args.model + name, mark)
    if Path(args.model).exists() and not Path(args.model + ".json").exists():
        raise JaxptError(
            f"--model={args.model} exists and has no {args.model}.json: it is no model of this command; "
            f"give another --model, or move it away"
        )
    settings = _settings(args)
    rows = []
    for shard, row in rows_of(open_shards(args.train, args.text_field), "labelled text"):
        value = row.get(args.label_field)
        label = "" if value is None else "_".join(str(value).split())
        if not label:
            id = row.get("id", f"beginning {row['text'][:40]!r}")
            raise JaxptError(f"{shard.path}: record {id} has no {args.label_field!r}; name it by --label_field")
        rows.append((row["text"], label))
    test = [r for r in rows if held_out(r[0], settings.held_out, settings.seed)]
    classifier = Classifier.train((r for r in rows if not held_out(r[0], settings.held_out, settings.seed)), settings)
    seen = judge(classifier.probabilities([t for t, _ in test]), [l for _, l in test], classifier.labels)
    classifier.save(args.model)
    _show(seen, args.model, len(test))
    return 0


def _show(seen: Judgement, model: str, count: int) -> None:
    """Writes `MODEL.heldout.json` and the picture, and prints the table."""
    storage.write_json(model + ".heldout.json", seen.to_dict())
    with storage.new_file(model + ".heldout.html") as file:
        file.write_text(picture(seen, f"{model.rsplit('/', 1)[-1]}: {count:,} held-out texts"), encoding="utf-8")
    rows = [(s.label, s.examples, s.precision, s.recall, s.f1) for s in seen.labels]
    print(table(["label", "held out", "precision", "recall", "F1"], rows))
    print(f"accuracy {seen.accuracy:.3f}, calibration error {seen.calibration.error:.3f}; {model}.heldout.html")


@dataclass(frozen=True)
class Classify:
    """The step: labels every document, or drops those that score below the cut."""

    model: str
    cut: Any = None  # from `quantile_threshold`; None: only label

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
        low = np.flatnonzero(scores.astype(np.float32) < np.float32(self.cut.value)).tolist()
        removed = [Removed(row, "classify", float(scores[row]), {"threshold": self.cut.value}) for row in low]
        return Outcome.of(batch, removed, columns={"class_score": scores}, statistics={"classify": scores})


@dataclass(frozen=True)
class Recalled:
    """The step: only the documents that mining found stay, with their score."""

    found: dict[str, float]

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        scores = [self.found.get(f"{place.shard}#{place.row + i}") for i in range(len(batch))]
        removed = [Removed(i, "not-recalled", None, {"excerpt": ""}) for i, score in enumerate(scores) if score is None]
        return Outcome.of(batch, removed, columns={"class_score": pa.array(scores, pa.float64())})


SCORE = Rule("classify")


def _apply(args: argparse.Namespace) -> int:
    classifier = Classifier.load(args.model)
    shards = open_shards(args.input, args.text_field)
    cut = None
    if args.keep is not None:
        parts, rows = [], rows_of(shards, "score", told=True)
        while batch := list(islice(rows, BATCH)):
            parts.append(classifier.scores([row["text"] for _, row in batch]))
        cut = quantile_threshold(np.concatenate(parts) if parts else np.zeros(0), args.keep)

    digest = sha256(Path(args.model).read_bytes()).hexdigest()
    settings = {"model": digest, "keep": args.keep, "inputs": [s.fingerprint for s in shards]}
    manifests = run_shards(shards, args.output, settings, Classify(args.model, cut), "classify", [SCORE], args.workers)
    print(table(["shard", "documents", "kept"], [(m["name"], m["rows"], m["kept"]) for m in manifests]))
    tell_quarantine(manifests, args.output, args.text_field)
    if cut:
        print(f"threshold {cut.value:.6g} keeps {cut.kept:.2%} of the documents (asked for {cut.keep:.2%})")
    report = {"threshold": cut and asdict(cut), "shards": manifests}
    storage.write_json(storage.join(args.output, "classify.json"), report)
    return 0


def _mine(args: argparse.Namespace) -> int:
    seed = [row["text"] for _, row in rows_of(open_shards(args.seed, args.text_field), "seed")]
    shards = open_shards(args.input, args.text_field)

    def pool() -> Iterator[Document]:
        for shard in shards:
            for i, row in enumerate(shard.rows()):
                yield Document(f"{shard.name}#{i}", row["text"], str(row.get("url") or ""))

    plan = Plan(args.top_tokens, args.rounds, args.domain_rate)
    settings = _settings(args)
    mined = recall(seed, pool, settings, plan)

    prints = [s.fingerprint for s in [*open_shards(args.seed, args.text_field), *shards]]
    key = {"plan": asdict(plan), "recipe": asdict(settings), "inputs": prints}
    manifests = run_shards(shards, args.output, key, Recalled(mined.scores), "write", [SCORE], args.workers)
    mined.classifier.save(Path(args.output) / "model.bin")
    report = {"rounds": [asdict(r) for r in mined.rounds], "shards": manifests}
    storage.write_json(storage.join(args.output, "recall.json"), report)
    head = ["round", "positives", "negatives", "threshold", "documents", "tokens", "new tokens", "precision", "recall"]
    lines = [(*list(asdict(r).values())[:9], r.calibration_error, len(r.domains)) for r in mined.rounds]
    print(table([*head, "calibration error", "good domains"], lines))
    tell_quarantine(manifests, args.output, args.text_field)
    _show(mined.judgement, storage.join(args.output, "model.bin"), int(mined.judgement.confusion.sum()))
    return 0


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    inputs = {f"--{name}": getattr(args, name) for name in ("train", "seed", "input")}
    written = {"--model": args.model} if args.train else {}
    check_outputs(inputs, {"--output": None if args.train else args.output}, written)
    if args.train:
        return _train(args)
    if args.seed:
        if not (args.input and args.output and args.top_tokens > 0):
            raise JaxptError("classify --seed needs --input (the pool), --output and --top_tokens (the budget)")
        with made.writing(args.output, "classify"):
            return _mine(args)
    if args.input:
        if not (args.model and args.output):
            raise JaxptError("classify --input needs --model and --output")
        with made.writing(args.output, "classify"):
            return _apply(args)
    raise JaxptError("classify: give --train (labelled text), --input (to classify), or --seed and --input (to mine)")
