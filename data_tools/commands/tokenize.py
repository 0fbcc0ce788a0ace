"""`jaxpt-data tokenize`: text to tokenized documents, which pack at any sequence length without being encoded again."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tqdm import tqdm

from data_tools.io import ownership, storage
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import BytesRead, Problem, read
from data_tools.io.writers import LinesWriter
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.records import FileShard, open_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine
from jaxpt import tokenizers
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option
from jaxpt.data.build import control_facts
from jaxpt.data.caps import CAPS
from jaxpt.data.tokenize import EOS_TOKEN, encoded
from jaxpt.data.tokenized import FORMAT, NOTE, TokenizedWriter
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import sha256
from jaxpt.tokenizers.fingerprints import earlier_names
from jaxpt.tokenizers.interface import Tokenizer, encodable

EXAMPLE = """examples:
  jaxpt-data tokenize --input=clean --output=tokens --tokenizer=TOKENIZER
  jaxpt-data pack     --input=tokens --output=packed_4k --sequence_length=4096 --by=source"""


@dataclass(frozen=True, kw_only=True)  # `largest_record` takes the place of the one that it inherits
class Tokenize(DocumentStep):
    """Encode text once; pack then makes rows of any length of it."""

    example: ClassVar[str] = EXAMPLE

    input: str = option(doc="globs of records, comma-separated")
    output: str = option(doc="folder: Parquet shards, tokenizer/, tokenized.json last")
    tokenizer: str = option(doc="directory, .model or tokenizer.json")
    keep: str = option("source", "fields kept beside the tokens, comma-separated")
    bos: bool = option(False, "begin each document with BOS")
    no_eos: bool = option(False, "do not end each document with EOS")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    eos_token: str | None = option(None, EOS_TOKEN)
    control_tokens: Literal["text", "tokens"] = option(
        "text", "what text that spells a control token (</s>) becomes: text, or tokens, which end a document"
    )
    text_field: str = option("text", "of records: where the text is")
    largest_record: int = option(CAPS.largest_record, "bytes of a line, page or value; a longer one goes to quarantine")

    def run(self) -> None:
        """Encodes shard after shard on all cores; finished shards are not done again."""
        if storage.is_remote(self.output):
            raise JaxptError(f"--output={self.output} must be a local folder: pack reads it at random")
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input}, {"--output": self.output})
        tokenizer = tokenizers.load(self.tokenizer)
        if self.no_eos and self.eos_token is not None:
            raise JaxptError(f"--eos_token={self.eos_token} and --no_eos exclude each other; leave one out")
        end = {} if self.eos_token is None else {"eos_ids": tokenizer.token_ids(self.eos_token, "--eos_token")}
        fields = [f.strip() for f in self.keep.split(",") if f.strip()]
        facts = {
            "format": FORMAT,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "pad_id": tokenizer.pad_id if tokenizer.pad_id is not None else 0,
            "text_field": self.text_field,
            "bos": self.bos,
            "eos": not self.no_eos,
            **end,
            "fields": fields,
            **control_facts(self.control_tokens, tokenizer),
        }
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        with ownership.writing(self.output, "tokenize"):
            finished = _tokenize(shards, Path(self.output), tokenizer, facts, self.control_tokens == "tokens")
        counts = [{**m, "rows": m["documents"]} for m in finished]
        report_quarantine(counts, self.output, self.text_field, self.quarantine_limit)


HELP = Tokenize.summary()
main = Tokenize.main


def _tokenize(
    shards: list[FileShard], out: Path, tokenizer: Tokenizer, facts: dict[str, Any], control_tokens: bool
) -> list[dict[str, Any]]:
    names = [facts["tokenizer_fingerprint"], *earlier_names(tokenizer)]  # what earlier versions encoded is kept
    key, *earlier = [canonical_digest({**facts, "tokenizer_fingerprint": name}) for name in names]
    finished = []
    with progress(sum(s.size for s in shards), "tokenize", "B", scale=True) as bar:
        for shard in shards:
            note = storage.join(out, "manifests", f"{shard.name}.json")
            manifest = storage.read_json(note) or {}
            if manifest.get("input") != shard.fingerprint or manifest.get("key") not in (key, *earlier):
                manifest = _one_shard(shard, out, tokenizer, facts, bar, control_tokens)
                storage.write_json(note, {**manifest, "input": shard.fingerprint, "key": key})
            names = ("name", "sha256", "documents", "tokens", "quarantined", "control_tokens_met", "sources")
            finished.append({k: manifest[k] for k in names if k in manifest})
            bar.update(sum(s.size for s in shards[: len(finished)]) - bar.n)
    tokenizer.save(out / "tokenizer")
    met = sum(m.get("control_tokens_met", 0) for m in finished)
    note = {**facts, **({"control_tokens_met": met} if met else {}), "shards": finished}
    storage.write_json(out / NOTE, {**note, "digest": canonical_digest(note)})
    rows = [
        (m["name"], m["documents"], m["tokens"], m["quarantined"], m.get("control_tokens_met", 0)) for m in finished
    ]
    print(table(["shard", "documents", "tokens", "in quarantine", "control tokens in texts"], rows))
    return finished


def _one_shard(
    shard: FileShard, out: Path, tokenizer: Tokenizer, facts: dict[str, Any], bar: tqdm, control_tokens: bool
) -> dict[str, Any]:
    position, sources, quarantined, before = BytesRead(), {}, 0, bar.n
    met: list[int] = []
    with ExitStack() as stack:
        name = f"{shard.name}.parquet"
        problems = stack.enter_context(storage.new_file(out / "quarantine" / f"{shard.name}.jsonl"))
        quarantine = LinesWriter(problems, problems.name)
        file = stack.enter_context(storage.new_file(out / name))
        writer = TokenizedWriter(file, facts["vocab_size"], facts["fields"])

        def documents() -> Iterator[dict[str, Any]]:
            nonlocal quarantined
            for entry in read(shard.path, shard.field, position, shard.caps):
                if isinstance(entry, Problem):
                    quarantined += 1
                    quarantine.write_value(vars(entry))
                else:
                    yield entry[1]

        where: dict[str, Any] = {"text_field": shard.field, "bos": facts["bos"], "eos": facts["eos"]}
        where |= {"end": facts.get("eos_ids", ()), "control_tokens": control_tokens, "met": met.append}
        for document, identity, ids in encoded(documents(), tokenizer, **where):
            size = len(document[shard.field].encode("utf-8", "surrogatepass"))
            kept = [None if (v := document.get(f)) is None else encodable(str(v)) for f in facts["fields"]]
            writer.write(identity, ids, size, kept)
            source = document.get("source")
            counts = sources.setdefault(source if isinstance(source, str) else shard.name, [0, 0, 0])
            for i, n in enumerate((1, len(ids), size)):
                counts[i] += n
            bar.update(max(before + position.bytes - bar.n, 0))
        writer.close()
        digest = sha256(file)
        quarantine.close()
    counts = {s: dict(zip(("documents", "tokens", "bytes"), e)) for s, e in sources.items()}
    total = {k: sum(c[k] for c in counts.values()) for k in ("documents", "tokens")}
    found = {"control_tokens_met": sum(met)} if any(met) else {}
    return {"name": name, "sha256": digest, **total, "quarantined": quarantined, **found, "sources": counts}
