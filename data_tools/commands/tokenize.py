"""`jaxpt-data tokenize`: text to tokenized documents, which pack at any sequence length without being encoded again."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_tools.io import made, storage
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import Problem, Progress, read
from data_tools.io.writers import LinesWriter
from data_tools.shards.records import FileShard, open_shards
from data_tools.shards.rows import tell_quarantine
from jaxpt import tokenizers
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.data.tokenize import encoded
from jaxpt.data.tokenized import FORMAT, NOTE, TokenizedWriter
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import sha256

HELP = "encode text once; pack then makes rows of any length of it"

EXAMPLE = """examples:
  jaxpt-data tokenize --input='clean/*.jsonl.gz' --output=tokens --tokenizer=TOKENIZER
  jaxpt-data pack     --input=tokens --output=packed_4k --sequence_length=4096 --by=source"""


def parser() -> Parser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data tokenize", HELP, EXAMPLE)
    out.add_argument("--input", required=True, help="globs of records, comma-separated")
    out.add_argument("--output", required=True, help="folder: Parquet shards, tokenizer/, tokenized.json last")
    out.add_argument("--tokenizer", required=True, help="directory, .model or tokenizer.json")
    out.add_argument("--keep", default="source", help="fields kept beside the tokens, comma-separated")
    out.add_argument("--bos", action="store_true", help="begin each document with BOS")
    out.add_argument("--no_eos", action="store_true", help="do not end each document with EOS")
    out.add_argument("--text_field", default="text")
    return out


def main(argv: Sequence[str]) -> int:
    """Encodes shard after shard on all cores; finished shards are not done again."""
    args = parser().parse_args(list(argv))
    if storage.is_remote(args.output):
        raise JaxptError(f"--output={args.output} must be a local folder: pack reads it at random")
    check_outputs({"--input": args.input}, {"--output": args.output})
    tokenizer = tokenizers.load(args.tokenizer)
    fields = [f.strip() for f in args.keep.split(",") if f.strip()]
    facts = {
        "format": FORMAT,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id if tokenizer.pad_id is not None else 0,
        "text_field": args.text_field,
        "bos": args.bos,
        "eos": not args.no_eos,
        "fields": fields,
    }
    shards = open_shards(args.input, args.text_field)
    with made.writing(args.output, "tokenize"):
        return _tokenize(shards, Path(args.output), tokenizer, facts)


def _tokenize(shards: list[FileShard], out: Path, tokenizer: Any, facts: dict[str, Any]) -> int:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    made = []
    with progress(sum(s.size for s in shards), "tokenize", "B", scale=True) as bar:
        for shard in shards:
            note = storage.join(out, "manifests", f"{shard.name}.json")
            found = storage.read_json(note) or {}
            if found.get("input") != shard.fingerprint or found.get("key") != key:
                found = _one_shard(shard, out, tokenizer, facts, bar)
                storage.write_json(note, {**found, "input": shard.fingerprint, "key": key})
            names = ("name", "sha256", "documents", "tokens", "quarantined", "sources")
            made.append({k: found[k] for k in names if k in found})
            bar.update(sum(s.size for s in shards[: len(made)]) - bar.n)
    tokenizer.save(out / "tokenizer")
    note = {**facts, "shards": made}
    storage.write_json(out / NOTE, {**note, "digest": canonical_digest(note)})
    print(table(["shard", "documents", "tokens"], [(m["name"], m["documents"], m["tokens"]) for m in made]))
    tell_quarantine([{**m, "rows": m["documents"]} for m in made], out, facts["text_field"])
    return 0


def _one_shard(shard: FileShard, out: Path, tokenizer: Any, facts: dict[str, Any], bar: Any) -> dict[str, Any]:
    position, sources, quarantined, before = Progress(), {}, 0, bar.n
    with ExitStack() as stack:
        name = f"{shard.name}.parquet"
        file = stack.enter_context(storage.new_file(out / name))
        writer = TokenizedWriter(file, facts["vocab_size"], facts["fields"])
        problems = stack.enter_context(storage.new_file(out / "quarantine" / f"{shard.name}.jsonl"))
        quarantine = LinesWriter(problems, problems.name)

        def documents() -> Iterator[dict[str, Any]]:
            nonlocal quarantined
            for found in read(shard.path, shard.field, position):
                if isinstance(found, Problem):
                    quarantined += 1
                    quarantine.write_value(vars(found))
                else:
                    yield found[1]

        where = {"text_field": shard.field, "bos": facts["bos"], "eos": facts["eos"]}
        for document, identity, ids in encoded(documents(), tokenizer, **where):
            size = len(document[shard.field].encode("utf-8", "surrogatepass"))
            kept = [None if (v := document.get(f)) is None else str(v) for f in facts["fields"]]
            writer.write(identity, ids, size, kept)
            source = document.get("source")
            entry = sources.setdefault(source if isinstance(source, str) else shard.name, [0, 0, 0])
            for i, n in enumerate((1, len(ids), size)):
                entry[i] += n
            bar.update(max(before + position.bytes - bar.n, 0))
        writer.close()
        digest = sha256(file)
        quarantine.close()
    counts = {s: dict(zip(("documents", "tokens", "bytes"), e)) for s, e in sources.items()}
    total = {k: sum(c[k] for c in counts.values()) for k in ("documents", "tokens")}
    return {"name": name, "sha256": digest, **total, "quarantined": quarantined, "sources": counts}
