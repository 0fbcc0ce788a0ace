"""`jaxpt-data extract`: the readable text of web pages, from WARC, HTML files or records that hold HTML."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pyarrow as pa

from data_tools.io import ownership, storage
from data_tools.io.batch import Outcome, Place, Removed, texts
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import kind_of
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import LIMIT_HELP, check_limit, report_quarantine
from jaxpt.cli.terminal import table
from jaxpt.config.choice import option

EXAMPLE = """examples:
  jaxpt-data extract --input='crawl/*.warc.gz' --output=text
  jaxpt-data extract --input='pages/*.jsonl.gz' --output=text --text_field=html"""


def extract(batch: pa.RecordBatch, place: Place, deepest: int) -> Outcome:
    """The batch step: HTML becomes text; a page without any, or nested more than `deepest` deep, goes."""
    from data_tools.io.html import main_text  # resiliparse is only needed here

    texts_of: dict[int, str] = {}
    gone = []
    for row, html in enumerate(texts(batch)):
        try:
            texts_of[row] = main_text(html, deepest)
        except ValueError as error:
            gone.append(Removed(row, "extract-nesting", str(error)))
        else:
            gone += [] if texts_of[row] else [Removed(row, "extract-empty", 0)]
    return Outcome.of(batch, gone, texts=texts_of)


def as_read(batch: pa.RecordBatch, place: Place) -> Outcome:
    """The batch step for WARC and HTML files: their reader has extracted the text."""
    return Outcome(batch)


@dataclass(frozen=True)
class Extract(DocumentStep):
    """The readable text of web pages: WARC, HTML files, records that hold HTML."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="globs of WARC or HTML files, or of records with HTML")
    output: str = option(doc="folder: a shard of records for each file")
    text_field: str = option("text", "of records: where the HTML is; the text takes its place")
    quarantine_limit: float = option(0.5, LIMIT_HELP, changes_output=False)
    workers: int = option(1, "processes over shards; 0: one per core", changes_output=False)

    def run(self) -> None:
        """Extracts shard after shard; finished shards are not done again."""
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input}, {"--output": self.output})
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        with ownership.writing(self.output, "extract"):
            self._write(shards)

    def _write(self, shards: list[FileShard]) -> None:
        manifests = []
        steps = {"extract": partial(extract, deepest=self.deepest_html), "as_read": as_read}
        for name, step in steps.items():
            mine = [s for s in shards if (kind_of(s.path) in ("jsonl", "parquet")) == (name == "extract")]
            settings = {"step": name}
            manifests += run_shards(mine, self.output, settings, step, "extract", workers=self.workers)
        rows = [(m["name"], m["rows"], m["kept"], m["quarantined"]) for m in manifests]
        print(table(["shard", "pages", "with text", "in quarantine"], rows))
        storage.write_json(storage.join(self.output, "extract.json"), {"shards": manifests})
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)


HELP = Extract.summary()
main = Extract.main
