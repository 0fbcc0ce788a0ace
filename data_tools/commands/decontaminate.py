"""`jaxpt-data decontaminate`: take evaluation items out of documents, or the documents, and report what matched."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pyarrow as pa

from data_tools.decontaminate.held import contamination, rules_of
from data_tools.decontaminate.index import Item, ItemIndex, Rules, excerpt
from data_tools.decontaminate.passages import passages, without
from data_tools.dedup import folding
from data_tools.io import ownership, storage
from data_tools.io.batch import Outcome, Place, Removed, texts
from data_tools.io.outputs import check_outputs
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import open_shards, removals, run_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine, rows_of
from jaxpt.cli.terminal import table
from jaxpt.config.choice import option
from jaxpt.data.contamination import NAME, item_text
from jaxpt.errors import JaxptError

EXAMPLE = """example:
  jaxpt-data decontaminate --input=dedup --output=decontaminated --eval='eval/*.jsonl.gz'"""


@dataclass(frozen=True)
class DropContaminated:
    """The batch step: documents go where items of `index` make up `share` of them; of others, the passages go."""

    index: ItemIndex
    share: float
    margin: int
    mask: str

    def __call__(self, batch: pa.RecordBatch, place: Place) -> Outcome:
        """Returns what stays of a batch."""
        removed: list[Removed] = []
        everything, left = texts(batch), {}
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
            detail["held"] = rules_of(matches)
            found = passages(everything[row], matches)
            detail["share"] = round(found.share, 6)
            stays = found.share < self.share
            if stays:
                text, detail["passages"] = without(everything[row], found.spans, self.margin, self.mask)
                left[row] = text
                stays = bool(text.strip())
            removed.append(Removed(row, f"decontaminate-{first.rule}", first.value, detail, whole=not stays))
        return Outcome.of(batch, removed, texts={r: t for r, t in left.items() if t.strip()})


@dataclass(frozen=True)
class Decontaminate(DocumentStep):
    """Take items of evaluation sets out of documents, or the documents that hold much of them."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="globs of JSONL (.gz, .zst) or Parquet files, comma-separated")
    output: str = option(doc="folder: shards of the same names, removals, decontaminate.json, contaminated.json")
    eval: str = option(doc="globs of the evaluation sets, same formats")
    eval_fields: str = option("text", "fields of an item that are joined, comma-separated")
    long: int = option(Rules.long, "tokens in common that are enough")
    short: int = option(Rules.short, "n-grams for the ratio rule")
    ratio: float = option(Rules.ratio, "share of an item's n-grams that is enough")
    shortest: int = option(Rules.shortest, "items with fewer tokens are not checked")
    template: int = option(Rules.template, "wording of so many items is ignored")
    gapped_ratio: float = option(
        Rules.gapped_ratio, "share of an edited item's tokens that is enough; 0: not looked for"
    )
    gapped_tokens: int = option(Rules.gapped_tokens, "tokens of an edited item, at least")
    share: float = option(0.01, "documents of which so much matches go, others lose the passages; 0: all go")
    margin: int = option(200, "characters on either side of a passage that go with it")
    mask: str = option("", "what stands where a passage was (default: a blank line)")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    text_field: str = option("text", "of records: where the text is")
    workers: int = option(1, "processes over shards; 0: one per core", changes_output=False)

    def run(self) -> None:
        """Indexes the evaluation sets, then checks shard after shard; finished shards are not done again."""
        check_limit(self.quarantine_limit)
        if not 0 <= self.share <= 1 or self.margin < 0:
            raise JaxptError(f"--share={self.share} must be in [0, 1] and --margin={self.margin} at least 0")
        fields = [f.strip() for f in self.eval_fields.split(",")]
        check_outputs({"--input": self.input, "--eval": self.eval}, {"--output": self.output})
        exams = open_shards(self.eval, fields[0], caps=self.caps)
        items = [
            Item(str(row.get("task") or shard.name.split(".")[0]), str(row.get("id", i)), item_text(row, fields))
            for i, (shard, row) in enumerate(rows_of(exams, "evaluation sets"))
        ]
        if not items:
            raise JaxptError(f"--eval={self.eval} holds no records with field {fields[0]!r}")
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        gapped = (self.gapped_ratio, self.gapped_tokens)
        index = ItemIndex(items, Rules(self.long, self.short, self.ratio, self.shortest, self.template, *gapped))
        settings = {"rules": asdict(index.rules), "eval": [s.fingerprint for s in exams], "fields": fields}
        settings |= {"folding": folding.VERSION, "share": self.share, "margin": self.margin, "mask": self.mask}
        settings["held"] = 1  # removals name each item by its digest
        with ownership.writing(self.output, "decontaminate"):
            step, what = DropContaminated(index, self.share, self.margin, self.mask), "decontaminate"
            manifests = run_shards(shards, self.output, settings, step, what, workers=self.workers)
            self._report(manifests, index, items)

    def _report(self, manifests: Sequence[Mapping[str, Any]], index: ItemIndex, items: Sequence[Item]) -> None:
        """Prints and writes what was found of each evaluation set."""
        documents: Counter[str] = Counter()
        ids_of: dict[str, set[str]] = {}
        for line in removals(self.output, manifests):
            documents.update(list(line["items"]))
            for name, ids in line["items"].items():
                ids_of.setdefault(name, set()).update(ids)
        parts = [(m, sum(m["removed"].values()), sum(m["cut"].values())) for m in manifests]
        rows = [(m["name"], m["rows"], m["kept"], gone, masked, m["quarantined"]) for m, gone, masked in parts]
        print(table(["shard", "documents", "kept", "dropped", "passages cut out of", "in quarantine"], rows))
        items_of, unchecked = (Counter(i.task for i in group) for group in (index.items, index.unchecked))
        sets = {
            name: {
                "items": items_of[name],
                "not checked": unchecked[name],
                "found": len(ids_of.get(name, ())),
                "documents": documents[name],
            }
            for name in sorted(items_of)
        }
        head = ["evaluation set", *next(iter(sets.values()))]
        print(table(head, [(name, *row.values()) for name, row in sets.items()]))
        print(f"{len(index.items):,} items, {len(index.unchecked):,} too short or only template wording: not checked")
        self._report_sources(manifests, index, items)
        report = {"items": len(index.items), "sets": sets, "shards": manifests}
        storage.write_json(storage.join(self.output, "decontaminate.json"), report)
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)

    def _report_sources(self, manifests: Sequence[Mapping[str, Any]], index: ItemIndex, items: Sequence[Item]) -> None:
        """Prints and writes which items each source holds."""
        fields = [f.strip() for f in self.eval_fields.split(",")]
        lines = ((m["name"], line) for m in manifests for line in removals(self.output, [m]))
        found = contamination(items, index, fields, manifests, lines)
        rows = found.table()
        if rows:
            print(table(["evaluation set", "source", "items held", "of the set", "documents"], rows))
        none = sorted(found.sources.keys() - {row[1] for row in rows})
        if none:
            print(f"sources that hold no item: {', '.join(none)}")
        storage.write_json(storage.join(self.output, NAME), found.to_dict())
        print(f"which items each source holds: {storage.join(self.output, NAME)}")


HELP = Decontaminate.summary()
main = Decontaminate.main
