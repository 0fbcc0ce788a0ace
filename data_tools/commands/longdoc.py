"""`jaxpt-data longdoc`: long documents from repositories, from links, or picked because their length pays."""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from data_tools.dedup import minhash
from data_tools.dedup.store import write_json
from data_tools.longdoc.dependence import dependence
from data_tools.longdoc.distribution import divergence, measure, rebalance
from data_tools.longdoc.links import Walk, links_in, normal_url, walks
from data_tools.longdoc.repositories import join_repository
from data_tools.perplexity.ngram import NgramModel
from data_tools.records import FileShard, open_shards
from jaxpt.errors import JaxptError, nearest
from jaxpt.terminal import table

HELP = "build or pick long documents: repositories, linked texts, long-range dependence"

EXAMPLE = """examples:
  jaxpt-data longdoc --how=repositories --input='code/*.jsonl.gz' --output=long_code
  jaxpt-data longdoc --how=links --input='wiki/*.jsonl.gz' --output=long_wiki --max_tokens=32768
  jaxpt-data longdoc --how=select --input='books/*.jsonl.gz' --output=long_books --least_tokens=8192"""
HOWS = ("repositories", "links", "select")


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    out = argparse.ArgumentParser(
        "jaxpt-data longdoc",
        description=HELP,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--input", required=True, help="globs of records")
    out.add_argument("--output", required=True)
    out.add_argument("--how", required=True, help=", ".join(HOWS))
    out.add_argument("--repo_field", default="repo", help="repositories: groups files")
    out.add_argument("--path_field", default="path", help="repositories: the file's path")
    out.add_argument("--url_field", default="url", help="links: the document's own url")
    out.add_argument("--max_chars", type=int, default=0, help="repositories: cut between files (0: never)")
    out.add_argument("--max_tokens", type=int, default=32_768, help="links: words of a joined document")
    out.add_argument("--max_degree", type=int, default=32, help="links: a hub keeps so many")
    out.add_argument("--least_tokens", type=int, default=4096, help="select: words, at least")
    out.add_argument("--least_gain", type=float, default=0.0, help="select: nats per word that far context adds")
    out.add_argument("--domain_field", default="source", help="what is kept in balance")
    out.add_argument("--most", type=float, default=4.0, help="largest weight when rebalancing")
    out.add_argument("--text_field", default="text")
    return out


def _size(text: str) -> int:
    return int(minhash.hash_tokens([text]).lengths[0])


def _field(row: dict, name: str, shard: FileShard, place: int) -> str:
    if not isinstance(row.get(name), str):
        raise JaxptError(f"{shard.path}: record {place} has no string field {name!r}; name it by its flag")
    return row[name]


def _repositories(args: argparse.Namespace, shards: list[FileShard]) -> Iterator[dict]:
    repos: dict[str, dict[str, dict]] = {}
    for shard in shards:
        for i, row in enumerate(shard.rows()):
            name, path = _field(row, args.repo_field, shard, i), _field(row, args.path_field, shard, i)
            repos.setdefault(name, {})[path] = row
    for name in sorted(repos):
        files = {path: row["text"] for path, row in repos[name].items()}
        domain = next(iter(repos[name].values())).get(args.domain_field, "")
        for part, joined in enumerate(join_repository(files, args.max_chars)):
            places = [{"path": p, "start": at} for p, at in joined.files]
            yield {"id": f"{name}#{part}", "text": joined.text, args.domain_field: domain, "files": places}


def _links(args: argparse.Namespace, shards: list[FileShard]) -> Iterator[dict]:
    rows: dict[str, dict] = {}
    for shard in shards:
        for i, row in enumerate(shard.rows()):
            url = normal_url(_field(row, args.url_field, shard, i))
            rows.setdefault(url, row)
    links = {url: links_in(row["text"], row[args.url_field]) for url, row in rows.items()}
    tokens = {url: _size(row["text"]) for url, row in rows.items()}
    for chain in walks(links, tokens, Walk(args.max_tokens, args.max_degree)):
        text = "\n\n".join(rows[url]["text"] for url in chain)
        yield {
            "id": chain[0],
            "text": text,
            args.domain_field: rows[chain[0]].get(args.domain_field, ""),
            "urls": chain,
        }


def _select(args: argparse.Namespace, shards: list[FileShard]) -> Iterator[dict]:
    background = NgramModel.train((row["text"] for s in shards for row in s.rows()), 1)
    for shard in shards:
        for row in shard.rows():
            seen = dependence(row["text"], background=background)
            if seen.tokens >= args.least_tokens and seen.is_long(args.least_gain):
                yield {**row, "dependence": asdict(seen)}


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    if args.how not in HOWS:
        raise JaxptError(f"--how={args.how} is unknown{nearest(args.how, HOWS)}; known: {', '.join(HOWS)}")
    shards = open_shards(args.input, args.text_field)
    make = {"repositories": _repositories, "links": _links, "select": _select}[args.how]
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    domains, sizes = [], []
    temporary = out / "long.jsonl.tmp"
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in make(args, shards):
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            domains.append(str(row.get(args.domain_field, "")))
            sizes.append(_size(row["text"]))
    base = [(str(r.get(args.domain_field, "")), _size(r["text"])) for s in shards for r in s.rows()]
    before, after = measure(*zip(*base)) if base else measure([], []), measure(domains, sizes)
    report = {
        "before": asdict(before),
        "after": asdict(after),
        "divergence_bits": divergence(before.domains, after.domains),
    }
    if after.tokens:
        weights, shares = rebalance(before, after, args.most)
        report |= {"weights": weights, "shares": shares, "divergence_rebalanced": divergence(before.domains, shares)}
        rows = [(d, before.domains.get(d, 0.0), s, weights.get(d, 0.0)) for d, s in sorted(after.domains.items())]
        print(table(["domain", "share before", "share of long", "weight"], rows))
    write_json(out / "longdoc.json", report)
    os.replace(temporary, out / "long.jsonl")
    longer = [(f"> {n:,} words", before.longer[n], after.longer[n]) for n in before.longer]
    print(table(["share of words in documents", "before", "after"], longer))
    print(f"{after.documents:,} long documents, {after.tokens:,} words (of {before.tokens:,})")
    return 0
