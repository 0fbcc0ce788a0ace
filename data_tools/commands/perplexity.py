"""`jaxpt-data perplexity`: score documents and cut both tails by quantiles per language and source."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from data_tools.io import made, storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, strings
from data_tools.io.outputs import check_outputs
from data_tools.perplexity.ngram import NgramModel
from data_tools.perplexity.scorers import KenlmScorer, Scorer
from data_tools.perplexity.tails import CURVE, Tails, cuts
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import rows_of, tell_quarantine
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.errors import JaxptError

HELP = "cut the most and the least surprising documents, per language and source"

EXAMPLE = """example:
  jaxpt-data perplexity --input='dedup/*.jsonl.gz' --output=scored --train='wiki/*.jsonl.gz' --low=0.05 --high=0.9"""
BATCH = 256


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data perplexity", HELP, EXAMPLE)
    tails = Tails()
    out.add_argument("--input", required=True, help="globs of records")
    out.add_argument("--output", required=True)
    out.add_argument("--train", help="globs of good text: an n-gram model is counted on it, one per language")
    out.add_argument("--kenlm", help="a KenLM model file instead (all languages)")
    out.add_argument("--model", help="a jaxpt bundle instead (all languages), on all devices")
    out.add_argument("--batch_size", type=int, default=8, help="of --model, a multiple of the number of devices")
    out.add_argument("--sequence_length", type=int, default=1024, help="of --model")
    out.add_argument("--order", type=int, default=3, help="of the n-gram model")
    out.add_argument("--max_tokens", type=int, default=20_000_000, help="tokens counted per language")
    out.add_argument("--low", type=float, default=tails.low)
    out.add_argument("--high", type=float, default=tails.high)
    out.add_argument("--least", type=int, default=tails.least, help="smaller groups use their language's quantiles")
    out.add_argument("--language_field", default="lang")
    out.add_argument("--source_field", default="source")
    out.add_argument("--text_field", default="text")
    out.add_argument("--workers", type=int, default=1, help="processes over shards; 0: one per core")
    return out


def _models(args: argparse.Namespace) -> dict[str, Scorer]:
    if sum(map(bool, (args.train, args.kenlm, args.model))) != 1:
        raise JaxptError("perplexity: give one of --train (text for an n-gram model), --kenlm and --model")
    if args.model:
        from data_tools.perplexity.jaxpt_model import open_scorer  # JAX starts only where it is used

        return {"": open_scorer(args.model, batch_size=args.batch_size, sequence_length=args.sequence_length)}
    if args.kenlm:
        return {"": KenlmScorer(args.kenlm)}
    shards = open_shards(args.train, args.text_field)
    languages = sorted({_name(row, args.language_field) for _, row in rows_of(shards, "languages")})
    if not languages:
        raise JaxptError(f"--train={args.train} holds no records with a string field {args.text_field!r}")

    def texts(language: str) -> Iterator[str]:
        for _, row in rows_of(shards, "training text", told=True):
            if _name(row, args.language_field) == language:
                yield row["text"]

    return {language: NgramModel.train(texts(language), args.order, args.max_tokens) for language in languages}


def _name(row: dict, field: str) -> str:
    """Returns a field that names a group, empty where it is no text."""
    value = row.get(field)
    return value if isinstance(value, str) else ""


def _scores(rows: list[dict], models: dict[str, Scorer], field: str) -> np.ndarray:
    out = np.full(len(rows), np.nan)
    languages = [_name(row, field) for row in rows]
    for name in set(languages):
        mine = [i for i, l in enumerate(languages) if l == name]
        model = models.get(name) or models.get("")
        if model is not None:
            out[mine] = model.perplexities([rows[i]["text"] for i in mine])
    return out


@dataclass(frozen=True)
class Cut:
    """The step: documents outside their group's quantiles go; the others get their perplexity as a field."""

    scores: dict[str, np.ndarray]  # by shard
    cuts: dict
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


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    tails = Tails(args.low, args.high, args.least)
    tails.check()
    check_outputs({"--input": args.input, "--train": args.train}, {"--output": args.output})
    shards = open_shards(args.input, args.text_field)
    with made.writing(args.output, "perplexity"):
        return _perplexity(args, shards, tails)


def _perplexity(args: argparse.Namespace, shards: list[FileShard], tails: Tails) -> int:
    models = _models(args)
    parts: dict[str, list[np.ndarray]] = {shard.name: [np.zeros(0)] for shard in shards}
    languages: list[str] = []
    sources: list[str] = []
    rows = rows_of(shards, "score", told=True)
    while batch := list(islice(rows, BATCH)):
        found = _scores([row for _, row in batch], models, args.language_field)
        for name in dict.fromkeys(shard.name for shard, _ in batch):
            mine = np.array([shard.name == name for shard, _ in batch])
            parts[name].append(found[mine])
        languages += [_name(row, args.language_field) for _, row in batch]
        sources += [_name(row, args.source_field) for _, row in batch]
    scores = {name: np.concatenate(found) for name, found in parts.items()}
    table_of_cuts = cuts(np.concatenate(list(scores.values())), languages, sources, tails)

    step = Cut(scores, table_of_cuts, args.language_field, args.source_field)
    settings = {**vars(args), "inputs": [s.fingerprint for s in shards]}
    settings["train"] = [s.fingerprint for s in open_shards(args.train)] if args.train else None
    for name in ("output", "workers"):
        settings.pop(name)
    manifests = run_shards(shards, args.output, settings, step, "perplexity", [RULE], args.workers)
    lines = [(c.language, c.source, c.texts, c.basis, c.low, c.high) for c in table_of_cuts.values()]
    print(table(["language", "source", "texts", "quantiles of", "low", "high"], lines))
    tell_quarantine(manifests, args.output, args.text_field)
    unjudged = int(sum(np.isnan(s).sum() for s in scores.values()))
    if unjudged:
        print(f"{unjudged:,} documents have no words or no model for their language: kept unjudged")
    report = {"quantiles": CURVE, "cuts": [asdict(c) for c in table_of_cuts.values()], "shards": manifests}
    storage.write_json(storage.join(args.output, "perplexity.json"), report)
    return 0
