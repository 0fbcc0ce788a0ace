"""`jaxpt-data decontaminate`: drop documents that contain evaluation items, and report what matched."""

import argparse
from collections import Counter
from dataclasses import asdict, dataclass

import pyarrow as pa

from data_tools.decontaminate.index import Index, Item, Rules, excerpt
from data_tools.io import made, storage
from data_tools.io.batch import Outcome, Place, Removed, texts
from data_tools.io.outputs import check_outputs
from data_tools.shards.records import FileShard, open_shards, removals, run_shards
from data_tools.shards.rows import rows_of, tell_quarantine
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.errors import JaxptError

HELP = "drop documents that contain items of evaluation sets"

EXAMPLE = """example:
  jaxpt-data decontaminate --input='dedup/*.jsonl.gz' --output=decontaminated --eval='eval/*.jsonl.gz'"""


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    rules = Rules()
    out = Parser("jaxpt-data decontaminate", HELP, EXAMPLE)
    out.add_argument("--input", required=True, help="globs of JSONL (.gz, .zst) or Parquet files, comma-separated")
    out.add_argument("--output", required=True)
    out.add_argument("--eval", required=True, help="globs of the evaluation sets, same formats")
    out.add_argument("--eval_fields", default="text", help="fields of an item that are joined, comma-separated")
    out.add_argument("--long", type=int, default=rules.long, help="tokens in common that are enough")
    out.add_argument("--short", type=int, default=rules.short, help="n-grams for the ratio rule")
    out.add_argument("--ratio", type=float, default=rules.ratio, help="share of an item's n-grams that is enough")
    out.add_argument("--shortest", type=int, default=rules.shortest, help="items with fewer tokens are not checked")
    out.add_argument("--template", type=int, default=rules.template, help="wording of so many items is ignored")
    out.add_argument("--text_field", default="text")
    out.add_argument("--workers", type=int, default=1, help="processes over shards; 0: one per core")
    return out


@dataclass(frozen=True)
class Decontaminate:
    """The step: documents that an item of `index` occurs in go."""

    index: Index

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        removed = []
        everything = texts(batch)
        for row, matches in enumerate(self.index.match(everything)):
            if not matches:
                continue
            first = matches[0]
            piece = excerpt(everything[row], first.token, max(self.index.rules.long, 20))
            seen = [(m.rule, m.item.task, m.item.id, m.value) for m in matches[:20]]
            items: dict[str, list[str]] = {}
            for name, id in sorted({(m.item.task, m.item.id) for m in matches}):
                items.setdefault(name, []).append(id)
            detail = {"excerpt": piece, "item_excerpt": first.item.text[:300], "matches": seen, "items": items}
            removed.append(Removed(row, f"decontaminate-{first.rule}", first.value, detail))
        return Outcome.of(batch, removed)


def _text(row: dict, fields: list[str]) -> str:
    parts = []
    for name in fields:
        value = row.get(name)
        parts += [str(v) for v in value] if isinstance(value, list) else [str(value)] if value is not None else []
    return "\n".join(parts)


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    fields = [f.strip() for f in args.eval_fields.split(",")]
    check_outputs({"--input": args.input, "--eval": args.eval}, {"--output": args.output})
    exams = open_shards(args.eval, fields[0])
    items = [
        Item(str(row.get("task") or shard.name.split(".")[0]), str(row.get("id", i)), _text(row, fields))
        for i, (shard, row) in enumerate(rows_of(exams, "evaluation sets"))
    ]
    if not items:
        raise JaxptError(f"--eval={args.eval} holds no records with field {fields[0]!r}")
    shards = open_shards(args.input, args.text_field)
    index = Index(items, Rules(args.long, args.short, args.ratio, args.shortest, args.template))
    settings = {"rules": asdict(index.rules), "eval": [s.fingerprint for s in exams], "fields": fields}
    with made.writing(args.output, "decontaminate"):
        return _decontaminate(args, shards, index, settings)


def _decontaminate(args: argparse.Namespace, shards: list[FileShard], index: Index, settings: dict) -> int:
    manifests = run_shards(shards, args.output, settings, Decontaminate(index), "decontaminate", workers=args.workers)
    documents: Counter[str] = Counter()
    found: dict[str, set[str]] = {}
    for line in removals(args.output, manifests):
        documents.update(list(line["items"]))
        for name, ids in line["items"].items():
            found.setdefault(name, set()).update(ids)
    rows = [(m["name"], m["rows"], m["kept"], sum(m["removed"].values())) for m in manifests]
    print(table(["shard", "documents", "kept", "contaminated"], rows))
    tell_quarantine(manifests, args.output, args.text_field)
    items_of, unchecked = (Counter(i.task for i in group) for group in (index.items, index.unchecked))
    sets = {
        name: {
            "items": items_of[name],
            "not checked": unchecked[name],
            "found": len(found.get(name, ())),
            "documents": documents[name],
        }
        for name in sorted(items_of)
    }
    print(table(["evaluation set", *next(iter(sets.values()))], [(name, *row.values()) for name, row in sets.items()]))
    print(f"{len(index.items):,} items, {len(index.unchecked):,} too short or only template wording: not checked")
    report = {"items": len(index.items), "sets": sets, "shards": manifests}
    storage.write_json(storage.join(args.output, "decontaminate.json"), report)
    return 0
