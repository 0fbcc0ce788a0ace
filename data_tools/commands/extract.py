"""`jaxpt-data extract`: the readable text of web pages, from WARC, HTML files or records that hold HTML."""

import argparse
from collections.abc import Sequence

import pyarrow as pa

from data_tools.io import made, storage
from data_tools.io.batch import Outcome, Place, Removed, texts
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import kind_of
from data_tools.shards.records import FileShard, open_shards, run_shards
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table

HELP = "the readable text of web pages: WARC, HTML files, records that hold HTML"

EXAMPLE = """examples:
  jaxpt-data extract --input='crawl/*.warc.gz' --output=text
  jaxpt-data extract --input='pages/*.jsonl.gz' --output=text --text_field=html"""


def parser() -> Parser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data extract", HELP, EXAMPLE)
    out.add_argument("--input", required=True, help="globs of WARC or HTML files, or of records with HTML")
    out.add_argument("--output", required=True, help="folder: a shard of records for each file")
    out.add_argument("--text_field", default="text", help="of records: where the HTML is; the text takes its place")
    out.add_argument("--workers", type=int, default=1, help="processes over shards; 0: one per core")
    return out


def extract(batch: pa.RecordBatch, place: Place) -> Outcome:
    """The step: HTML becomes text; a page without any goes."""
    from data_tools.io.html import main_text  # resiliparse is only needed here

    found = dict(enumerate(map(main_text, texts(batch))))
    empty = [Removed(row, "extract-empty", 0) for row, text in found.items() if not text]
    return Outcome.of(batch, empty, texts=found)


def as_read(batch: pa.RecordBatch, place: Place) -> Outcome:
    """The step for WARC and HTML files: their reader has extracted the text."""
    return Outcome(batch)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(list(argv))
    check_outputs({"--input": args.input}, {"--output": args.output})
    shards = open_shards(args.input, args.text_field)
    with made.writing(args.output, "extract"):
        return _extract(args, shards)


def _extract(args: argparse.Namespace, shards: list[FileShard]) -> int:
    manifests = []
    for step in (extract, as_read):
        mine = [s for s in shards if (kind_of(s.path) in ("jsonl", "parquet")) == (step is extract)]
        manifests += run_shards(mine, args.output, {"step": step.__name__}, step, "extract", workers=args.workers)
    rows = [(m["name"], m["rows"], m["kept"], m["quarantined"]) for m in manifests]
    print(table(["shard", "pages", "with text", "in quarantine"], rows))
    storage.write_json(storage.join(args.output, "extract.json"), {"shards": manifests})
    return 0
