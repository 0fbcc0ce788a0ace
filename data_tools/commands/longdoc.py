"""`jaxpt-data longdoc`: long documents from repositories, from links, or picked because their length pays."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from data_tools.dedup import minhash
from data_tools.io import made, storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, texts
from data_tools.io.outputs import check_outputs
from data_tools.io.writers import LinesWriter
from data_tools.longdoc.dependence import COMPRESSION, LEAST_GAIN, UNIQUE_LINES, dependence
from data_tools.longdoc.distribution import Distribution, divergence, measure, rebalance
from data_tools.longdoc.links import Walk, links_in, normal_url, walks
from data_tools.longdoc.repositories import join_repository
from data_tools.longdoc.spool import Spool
from data_tools.perplexity.ngram import NgramModel
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import rows_of, tell_quarantine
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table

HELP = "build or pick long documents: repositories, linked texts, long-range dependence"

EXAMPLE = """examples:
  jaxpt-data longdoc --how=repositories --input='code/*.jsonl.gz' --output=long_code
  jaxpt-data longdoc --how=links --input='wiki/*.jsonl.gz' --output=long_wiki --max_tokens=32768
  jaxpt-data longdoc --how=select --input='books/*.jsonl.gz' --output=long_books --least_tokens=8192"""
HOWS = ("repositories", "links", "select")
RULES = [
    Rule("longdoc-short", low=1, high=1e6, log=True),
    Rule("longdoc-lines", least=UNIQUE_LINES),
    Rule("longdoc-compression", least=COMPRESSION),
    Rule("longdoc-gain", least=LEAST_GAIN, low=-0.2, high=0.4),
]


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data longdoc", HELP, EXAMPLE)
    out.add_argument("--input", required=True, help="globs of records")
    out.add_argument("--output", required=True)
    out.add_argument("--how", required=True, choices=HOWS)
    out.add_argument("--repo_field", default="repo", help="repositories: groups files")
    out.add_argument("--path_field", default="path", help="repositories: the file's path")
    out.add_argument("--url_field", default="url", help="links: the document's own url")
    out.add_argument("--max_chars", type=int, default=0, help="repositories: cut between files (0: never)")
    out.add_argument("--max_tokens", type=int, default=32_768, help="links: words of a joined document")
    out.add_argument("--max_degree", type=int, default=32, help="links: a hub keeps so many")
    out.add_argument("--least_tokens", type=int, default=4096, help="select: words, at least")
    out.add_argument("--least_gain", type=float, default=LEAST_GAIN, help="select: nats per word that far context adds")
    out.add_argument("--workers", type=int, default=1, help="select: processes over shards; 0: one per core")
    out.add_argument("--domain_field", default="source", help="what is kept in balance")
    out.add_argument("--most", type=float, default=4.0, help="largest weight when rebalancing")
    out.add_argument("--text_field", default="text")
    return out


def _size(text: str) -> int:
    return int(minhash.hash_tokens([text]).lengths[0])


class _Joined:
    """What a joining mode writes: `long.jsonl`, and the input records that have no place in it."""

    def __init__(self, stack: ExitStack, args: argparse.Namespace):
        def new(*names: str) -> LinesWriter:
            file = stack.enter_context(storage.new_file(storage.join(args.output, *names)))
            return stack.enter_context(closing(LinesWriter(file, names[-1])))

        self._args = args
        self._long = new("long.jsonl")
        self._removals, self._quarantine = new("removals", "long.jsonl"), new("quarantine", "long.jsonl")
        self.counts = {"name": "long.jsonl", "rows": 0, "kept": 0, "quarantined": 0, "removed": 0}
        self.before: tuple[list[str], list[int]] = [], []
        self.after: tuple[list[str], list[int]] = [], []

    def records(self, shards: list[FileShard], *fields: str) -> Iterator[tuple[dict, list[str]]]:
        """Yields each record with its values of `fields`; one that lacks a field is quarantined."""
        for shard, row in rows_of(shards, "read", told=True, quarantine=self._bad):
            values = [row.get(name) for name in fields]
            lacks = next((n for n, value in zip(fields, values) if not isinstance(value, str)), None)
            if lacks:
                self._quarantine.write_value({"shard": shard.name, "reason": f"no string field {lacks!r}", **row})
                self.counts["quarantined"] += 1
                continue
            self.counts["rows"] += 1
            self.before[0].append(str(row.get(self._args.domain_field) or ""))
            self.before[1].append(_size(row["text"]))
            yield row, values

    def _bad(self, shard, problem) -> None:
        self._quarantine.write_value({"shard": shard.name, **vars(problem)})
        self.counts["quarantined"] += 1

    def remove(self, row: dict, rule: str, value: str) -> None:
        """Tells that a record has no place."""
        names = {name: row[name] for name in ("id", "source", "url") if name in row}
        self._removals.write_value({**names, "rule": rule, "value": value, "excerpt": row["text"][:300]})
        self.counts["removed"] += 1

    def write(self, row: dict) -> None:
        """Adds one long document."""
        self._long.write_value(row)
        self.counts["kept"] += 1
        self.after[0].append(row[self._args.domain_field])
        self.after[1].append(_size(row["text"]))


def _repositories(args: argparse.Namespace, shards: list[FileShard], out: _Joined, spool: Spool) -> None:
    repos: dict[str, dict[str, int]] = {}
    for row, (name, path) in out.records(shards, args.repo_field, args.path_field):
        files = repos.setdefault(name, {})
        if path in files:
            out.remove(row, "longdoc-same-path", f"{name}/{path}")
        else:
            files[path] = spool.add(row)
    with progress(len(repos), "repositories", "repository") as bar:
        for name in sorted(repos):
            rows = {path: spool[number] for path, number in repos[name].items()}
            domain = str(next(iter(rows.values())).get(args.domain_field) or "")
            for part, joined in enumerate(join_repository({p: r["text"] for p, r in rows.items()}, args.max_chars)):
                places = [{"path": p, "start": at} for p, at in joined.files]
                out.write({"id": f"{name}#{part}", "text": joined.text, args.domain_field: domain, "files": places})
            bar.update()


def _links(args: argparse.Namespace, shards: list[FileShard], out: _Joined, spool: Spool) -> None:
    places: dict[str, int] = {}
    links: dict[str, list[str]] = {}
    tokens: dict[str, int] = {}
    for row, (address,) in out.records(shards, args.url_field):
        url = normal_url(address)
        if url in places:
            out.remove(row, "longdoc-same-url", url)
            continue
        places[url], links[url], tokens[url] = spool.add(row), links_in(row["text"], address), out.before[1][-1]
    with progress(len(places), "walks", "text", scale=True) as bar:
        for chain in walks(links, tokens, Walk(args.max_tokens, args.max_degree)):
            rows = [spool[places[url]] for url in chain]
            domain = str(rows[0].get(args.domain_field) or "")
            text = "\n\n".join(row["text"] for row in rows)
            out.write({"id": chain[0], "text": text, args.domain_field: domain, "urls": chain})
            bar.update(len(chain))


@dataclass(frozen=True)
class Select:
    """The step: documents stay whose far context predicts what near context does not; logs and tables go."""

    least_tokens: int
    least_gain: float
    background: NgramModel

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        seen = [dependence(text, background=self.background) for text in texts(batch)]
        removed = []
        for row, one in enumerate(seen):
            if why := one.against(self.least_tokens, self.least_gain):
                removed.append(Removed(row, f"longdoc-{why[0]}", why[1], asdict(one)))
        values = (
            np.array([v(s) for s in seen], np.float64)
            for v in (lambda s: s.tokens, lambda s: s.unique_lines, lambda s: s.compression, lambda s: s.gain)
        )
        columns = {"dependence": pa.array([asdict(s) for s in seen])}
        return Outcome.of(batch, removed, columns=columns, statistics=dict(zip([r.name for r in RULES], values)))


def _select(args: argparse.Namespace, shards: list[FileShard]) -> tuple[Distribution, Distribution, list[dict]]:
    before: tuple[list[str], list[int]] = [], []

    def everything() -> Iterator[str]:
        for _, row in rows_of(shards, "read", told=True):
            before[0].append(str(row.get(args.domain_field) or ""))
            before[1].append(_size(row["text"]))
            yield row["text"]

    text = everything()
    background = NgramModel.train(text, 1)
    for _ in text:  # what the model did not take is measured all the same
        pass
    step = Select(args.least_tokens, args.least_gain, background)
    settings = {"tokens": args.least_tokens, "gain": args.least_gain, "inputs": [s.fingerprint for s in shards]}
    manifests = run_shards(shards, args.output, settings, step, "longdoc", RULES, args.workers)
    kept = open_shards(",".join(storage.join(args.output, m["name"]) for m in manifests), args.text_field)
    rows = [row for _, row in rows_of(kept, "measure", told=True)]
    after = [str(r.get(args.domain_field) or "") for r in rows], [r["dependence"]["tokens"] for r in rows]
    return measure(*before), measure(*after), manifests


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    check_outputs({"--input": args.input}, {"--output": args.output})
    shards = open_shards(args.input, args.text_field)
    with made.writing(args.output, "longdoc"):
        return _longdoc(args, shards)


def _longdoc(args: argparse.Namespace, shards: list[FileShard]) -> int:
    if args.how == "select":
        before, after, manifests = _select(args, shards)
    else:
        with ExitStack() as stack:
            out, spool = _Joined(stack, args), stack.enter_context(closing(Spool()))
            {"repositories": _repositories, "links": _links}[args.how](args, shards, out, spool)
        before, after, manifests = measure(*out.before), measure(*out.after), [out.counts]
    tell_quarantine(manifests, args.output, args.text_field)
    _report(args, before, after, manifests)
    return 0


def _report(args: argparse.Namespace, before: Distribution, after: Distribution, manifests: list[dict]) -> None:
    report = {
        "before": asdict(before),
        "after": asdict(after),
        "divergence_bits": divergence(before.domains, after.domains),
        "shards": manifests,
    }
    if after.tokens:
        weights, shares = rebalance(before, after, args.most)
        report |= {"weights": weights, "shares": shares, "divergence_rebalanced": divergence(before.domains, shares)}
        rows = [
            (d, before.domains.get(d, 0.0), after.domains.get(d, 0.0), weights.get(d, 0.0), shares.get(d, 0.0))
            for d in sorted({*before.domains, *after.domains})
        ]
        print(table(["domain", "share before", "share of long", "weight", "share with it"], rows))
    storage.write_json(storage.join(args.output, "longdoc.json"), report)
    longer = [(f"> {n:,} words", before.longer[n], after.longer[n]) for n in before.longer]
    print(table(["share of words in documents", "before", "after"], longer))
    print(f"{after.documents:,} long documents, {after.tokens:,} words (of {before.tokens:,})")
