"""`jaxpt-data longdoc`: long documents from repositories, from links, or picked because their length pays."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from data_tools.dedup import minhash
from data_tools.io import ownership, storage
from data_tools.io.batch import Outcome, Place, Removed, Rule, texts
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import Problem
from data_tools.io.writers import LinesWriter
from data_tools.longdoc.dependence import COMPRESSION, LEAST_GAIN, UNIQUE_LINES, dependence
from data_tools.longdoc.distribution import Distribution, divergence, measure, rebalance
from data_tools.longdoc.links import Walk, links_in, normal_url, walks
from data_tools.longdoc.repositories import join_repository
from data_tools.longdoc.spool import Spool
from data_tools.perplexity.ngram import NgramModel
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine, rows_of
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option

EXAMPLE = """examples:
  jaxpt-data longdoc --how=repositories --input='code/*.jsonl.gz' --output=long_code
  jaxpt-data longdoc --how=links --input='wiki/*.jsonl.gz' --output=long_wiki --max_tokens=32768
  jaxpt-data longdoc --how=select --input='books/*.jsonl.gz' --output=long_books --least_tokens=8192"""
RULES = [
    Rule("longdoc-short", low=1, high=1e6, log=True),
    Rule("longdoc-lines", least=UNIQUE_LINES),
    Rule("longdoc-compression", least=COMPRESSION),
    Rule("longdoc-gain", least=LEAST_GAIN, low=-0.2, high=0.4),
]


def _size(text: str) -> int:
    return int(minhash.hash_tokens([text]).lengths[0])


class _Joined:
    """What a joining mode writes: `long.jsonl`, and the input records that have no place in it."""

    def __init__(self, stack: ExitStack, output: str, domain_field: str):
        def new(*names: str) -> LinesWriter:
            file = stack.enter_context(storage.new_file(storage.join(output, *names)))
            return stack.enter_context(closing(LinesWriter(file, names[-1])))

        self._domain_field = domain_field
        self._long = new("long.jsonl")
        self._removals, self._quarantine = new("removals", "long.jsonl"), new("quarantine", "long.jsonl")
        self.counts = {"name": "long.jsonl", "rows": 0, "kept": 0, "quarantined": 0, "removed": 0}
        self.before: tuple[list[str], list[int]] = [], []
        self.after: tuple[list[str], list[int]] = [], []

    def records(self, shards: Sequence[FileShard], *fields: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Yields each record with its values of `fields`; one that lacks a field is quarantined."""
        for shard, row in rows_of(shards, "read", warn=False, quarantine=self._bad):
            values = [row.get(name) for name in fields]
            lacks = next((n for n, value in zip(fields, values) if not isinstance(value, str)), None)
            if lacks:
                self._quarantine.write_value({"shard": shard.name, "reason": f"no string field {lacks!r}", **row})
                self.counts["quarantined"] += 1
                continue
            self.counts["rows"] += 1
            self.before[0].append(str(row.get(self._domain_field) or ""))
            self.before[1].append(_size(row["text"]))
            yield row, values

    def _bad(self, shard: FileShard, problem: Problem) -> None:
        self._quarantine.write_value({"shard": shard.name, **vars(problem)})
        self.counts["quarantined"] += 1

    def remove(self, row: Mapping[str, Any], rule: str, value: str) -> None:
        """Writes down that a record has no place."""
        names = {name: row[name] for name in ("id", "source", "url") if name in row}
        self._removals.write_value({**names, "rule": rule, "value": value, "excerpt": row["text"][:300]})
        self.counts["removed"] += 1

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one long document."""
        self._long.write_value(row)
        self.counts["kept"] += 1
        self.after[0].append(row[self._domain_field])
        self.after[1].append(_size(row["text"]))


@dataclass(frozen=True)
class Select:
    """The batch step: documents stay whose far context predicts what near context does not; logs and tables go."""

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


@dataclass(frozen=True)
class Longdoc(DocumentStep):
    """Build or pick long documents: repositories, linked texts, long-range dependence."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="globs of records")
    output: str = option(doc="folder: shards of the same names, or long.jsonl; removals, longdoc.json")
    how: Literal["repositories", "links", "select"] = option(doc="join files of a repository, follow links, or pick")
    repo_field: str = option("repo", "repositories: groups files")
    path_field: str = option("path", "repositories: the file's path")
    url_field: str = option("url", "links: the document's own url")
    max_chars: int = option(0, "repositories: cut between files (0: never)")
    max_tokens: int = option(32_768, "links: words of a joined document")
    max_degree: int = option(32, "links: a hub keeps so many")
    least_tokens: int = option(4096, "select: words, at least")
    least_gain: float = option(LEAST_GAIN, "select: nats per word that far context adds")
    workers: int = option(1, "select: processes over shards; 0: one per core", changes_output=False)
    domain_field: str = option("source", "what is kept in balance")
    most: float = option(4.0, "largest weight when rebalancing")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    text_field: str = option("text", "of records: where the text is")

    def run(self) -> None:
        """Builds or picks; of picking, finished shards are not done again."""
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input}, {"--output": self.output})
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        with ownership.writing(self.output, "longdoc"):
            self._write(shards)

    def _write(self, shards: Sequence[FileShard]) -> None:
        if self.how == "select":
            before, after, manifests = self._select(shards)
        else:
            with ExitStack() as stack:
                out = _Joined(stack, self.output, self.domain_field)
                spool = stack.enter_context(closing(Spool()))
                {"repositories": self._repositories, "links": self._links}[self.how](shards, out, spool)
            before, after, manifests = measure(*out.before), measure(*out.after), [out.counts]
        self._report(before, after, manifests)
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)

    def _repositories(self, shards: Sequence[FileShard], out: _Joined, spool: Spool) -> None:
        repos: dict[str, dict[str, int]] = {}
        for row, (name, path) in out.records(shards, self.repo_field, self.path_field):
            files = repos.setdefault(name, {})
            if path in files:
                out.remove(row, "longdoc-same-path", f"{name}/{path}")
            else:
                files[path] = spool.add(row)
        with progress(len(repos), "repositories", "repository") as bar:
            for name in sorted(repos):
                rows = {path: spool[number] for path, number in repos[name].items()}
                domain = str(next(iter(rows.values())).get(self.domain_field) or "")
                for part, joined in enumerate(join_repository({p: r["text"] for p, r in rows.items()}, self.max_chars)):
                    places = [{"path": p, "start": at} for p, at in joined.files]
                    out.write({"id": f"{name}#{part}", "text": joined.text, self.domain_field: domain, "files": places})
                bar.update()

    def _links(self, shards: Sequence[FileShard], out: _Joined, spool: Spool) -> None:
        places: dict[str, int] = {}
        links: dict[str, list[str]] = {}
        tokens: dict[str, int] = {}
        for row, (address,) in out.records(shards, self.url_field):
            url = normal_url(address)
            if url in places:
                out.remove(row, "longdoc-same-url", url)
                continue
            places[url], links[url], tokens[url] = spool.add(row), links_in(row["text"], address), out.before[1][-1]
        with progress(len(places), "walks", "text", scale=True) as bar:
            for chain in walks(links, tokens, Walk(self.max_tokens, self.max_degree)):
                rows = [spool[places[url]] for url in chain]
                domain = str(rows[0].get(self.domain_field) or "")
                text = "\n\n".join(row["text"] for row in rows)
                out.write({"id": chain[0], "text": text, self.domain_field: domain, "urls": chain})
                bar.update(len(chain))

    def _select(self, shards: Sequence[FileShard]) -> tuple[Distribution, Distribution, list[dict]]:
        before: tuple[list[str], list[int]] = [], []

        def everything() -> Iterator[str]:
            for _, row in rows_of(shards, "read", warn=False):
                before[0].append(str(row.get(self.domain_field) or ""))
                before[1].append(_size(row["text"]))
                yield row["text"]

        text = everything()
        background = NgramModel.train(text, 1)
        for _ in text:  # what the model did not take is measured too
            pass
        step = Select(self.least_tokens, self.least_gain, background)
        settings = {"tokens": self.least_tokens, "gain": self.least_gain, "inputs": [s.fingerprint for s in shards]}
        manifests = run_shards(shards, self.output, settings, step, "longdoc", RULES, self.workers)
        kept = open_shards(
            ",".join(storage.join(self.output, m["name"]) for m in manifests), self.text_field, caps=self.caps
        )
        rows = [row for _, row in rows_of(kept, "measure", warn=False)]
        after = [str(r.get(self.domain_field) or "") for r in rows], [r["dependence"]["tokens"] for r in rows]
        return measure(*before), measure(*after), manifests

    def _report(self, before: Distribution, after: Distribution, manifests: Sequence[Mapping[str, Any]]) -> None:
        report = {
            "before": asdict(before),
            "after": asdict(after),
            "divergence_bits": divergence(before.domains, after.domains),
            "shards": manifests,
        }
        if after.tokens:
            weights, shares = rebalance(before, after, self.most)
            report |= {
                "weights": weights,
                "shares": shares,
                "divergence_rebalanced": divergence(before.domains, shares),
            }
            rows = [
                (d, before.domains.get(d, 0.0), after.domains.get(d, 0.0), weights.get(d, 0.0), shares.get(d, 0.0))
                for d in sorted({*before.domains, *after.domains})
            ]
            print(table(["domain", "share before", "share of long", "weight", "share with it"], rows))
        storage.write_json(storage.join(self.output, "longdoc.json"), report)
        longer = [(f"> {n:,} words", before.longer[n], after.longer[n]) for n in before.longer]
        print(table(["share of words in documents", "before", "after"], longer))
        counts = [(m["name"], m["rows"], m["kept"], m["quarantined"]) for m in manifests]
        print(table(["shard", "documents", "kept", "in quarantine"], counts))
        print(f"{after.documents:,} long documents, {after.tokens:,} words (of {before.tokens:,})")


HELP = Longdoc.summary()
main = Longdoc.main
