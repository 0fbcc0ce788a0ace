"""`jaxpt-data chats`: conversations of any common form as messages, which `kind: chat` packs."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from tqdm import tqdm

from data_tools.io import ownership, storage
from data_tools.io.conversations import talks_of
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import kind_of
from data_tools.io.writers import LinesWriter
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import FileShard, open_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option
from jaxpt.data.text_files import LeftOut, read_documents
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import sha256

EXAMPLE = """example:
  jaxpt-data chats --input='sft/*.jsonl.gz' --output=chats"""
KEPT = ("id", "source", "lang")
FORMAT = 1  # of what is written; a change makes every shard be done again


@dataclass(frozen=True, kw_only=True)
class Chats(DocumentStep):
    """Conversations of any common form (messages, ShareGPT, Alpaca, calls of functions) as messages and tools."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="JSON lines or Parquet, globs, comma-separated")
    output: str = option(doc="folder: a shard of JSON lines for each file")
    inside: str | None = option(None, "the field of a record that holds the conversation; left out: the record itself")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)

    def run(self) -> None:
        """Writes shard after shard; finished shards are not done again."""
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input}, {"--output": self.output})
        shards = open_shards(self.input, "messages", self.output, caps=self.caps)
        for shard in shards:
            if kind_of(shard.path) not in ("jsonl", "parquet"):
                raise JaxptError(f"{shard.path} holds no records; conversations are read from JSON lines and Parquet")
        with ownership.writing(self.output, "chats"):
            manifests = self._write(shards)
        rows = [(m["name"], m["rows"], m["with_tools"], m["calls"], m["quarantined"]) for m in manifests]
        print(table(["shard", "conversations", "with tools", "function calls", "in quarantine"], rows))
        report_quarantine(manifests, self.output, "messages", self.quarantine_limit)

    def _write(self, shards: list[FileShard]) -> list[dict[str, Any]]:
        key, manifests, done = canonical_digest([FORMAT, self.inside]), [], 0
        with progress(sum(s.size for s in shards), "chats", "B", scale=True) as bar:
            for shard in shards:
                name = shard.name.removesuffix(".parquet") + (".jsonl.zst" if shard.name.endswith(".parquet") else "")
                note = storage.join(self.output, "manifests", f"{name}.json")
                manifest = storage.read_json(note) or {}
                if manifest.get("input") != shard.fingerprint or manifest.get("key") != key:
                    manifest = self._one_shard(shard, name, bar)
                    storage.write_json(note, {**manifest, "input": shard.fingerprint, "key": key})
                manifests.append(manifest)
                done += shard.size
                bar.update(done - bar.n)
        return manifests

    def _one_shard(self, shard: FileShard, name: str, bar: tqdm) -> dict[str, Any]:
        counts, before = dict.fromkeys(("rows", "with_tools", "calls", "quarantined"), 0), bar.n
        with ExitStack() as stack:
            bad = stack.enter_context(storage.new_file(storage.join(self.output, "quarantine", f"{name}.jsonl")))
            file = stack.enter_context(storage.new_file(storage.join(self.output, name)))
            quarantine, out = LinesWriter(bad, "quarantine"), LinesWriter(file, name)

            def aside(record: LeftOut) -> None:
                counts["quarantined"] += 1
                quarantine.write_value(vars(record))

            fields = () if self.inside is None else (self.inside,)
            at = lambda position: bar.update(max(before + position - bar.n, 0))  # noqa: E731
            for number, record in enumerate(read_documents(shard.path, fields, at, shard.caps, aside), 1):
                try:
                    talks = talks_of(self._inner(record))
                except JaxptError as error:
                    aside(LeftOut(f"{shard.path}, record {number}", str(error), repr(record)[:200]))
                    continue
                for talk in talks:
                    out.write_value({**{k: record[k] for k in KEPT if isinstance(record.get(k), str)}, **talk})
                    counts["rows"] += 1
                    counts["with_tools"] += "tools" in talk
                    counts["calls"] += sum(len(m.get("tool_calls", ())) for m in talk["messages"])
            quarantine.close()
            out.close()
            digest = sha256(file)
        return {"format": FORMAT, "name": name, "step": "chats", "sha256": digest, **counts}

    def _inner(self, record: dict[str, Any]) -> dict[str, Any]:
        if self.inside is None:
            return record
        inner = record[self.inside]
        if not isinstance(inner, dict):
            raise JaxptError(f"field {self.inside!r} is {type(inner).__name__}, not an object")
        return inner


HELP = Chats.summary()
main = Chats.main
