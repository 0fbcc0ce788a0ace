"""What children do: commands, and readers whose answer says all that was read as one digest."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

COMMANDS = ("command", "train_counting")  # those that return an exit code


def command(program: str, *argv: str) -> int:
    """Runs `jaxpt` or `jaxpt-data` with arguments; returns its exit code."""
    import data_tools.__main__
    import jaxpt.cli

    return (jaxpt.cli if program == "jaxpt" else data_tools.__main__).main(list(argv))


def load(path: str) -> str:
    """The digest of a model as `jaxpt.load` gives it: parameters, config, lineage, tokenizer."""
    import jaxpt
    from jaxpt.models.specs import flatten

    model = jaxpt.load(path)
    whole = hashlib.sha256()
    for name, leaf in sorted(flatten(model.params).items()):
        value = np.asarray(leaf)
        whole.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    whole.update(text({"config": model.config.to_dict(), "lineage": list(model.lineage)}))
    if model.tokenizer is not None:
        probe = "once upon a time there were 12 brown foxes"
        whole.update(text([model.tokenizer.fingerprint, list(map(int, model.tokenizer.encode(probe)))]))
    else:
        whole.update(b"no tokenizer")
    return whole.hexdigest()


def save(source: str, target: str) -> None:
    """Writes the model at `source` as a bundle."""
    import jaxpt

    jaxpt.save(jaxpt.load(source), target)


def make_tokenizer(texts: str, path: str) -> None:
    """Trains a small SentencePiece tokenizer on the texts of a JSONL file."""
    from jaxpt.tokenizers import train_sentencepiece

    with gzip.open(texts, "rt") as file:
        lines = file.read().splitlines()
    train_sentencepiece([json.loads(line)["text"] for line in lines], Path(path), 330)


def rows(path: str) -> str:
    """The digest of all rows of a packed source, and of the documents of each."""
    from jaxpt.data.packed import PackedSource

    return rows_of(PackedSource.open(path))


def packed_below(folder: str) -> dict[str, str]:
    """The rows of every packed source under a folder."""
    places = sorted(Path(folder).glob("**/source.json"))
    return {str(p.parent.relative_to(folder)): rows(str(p.parent)) for p in places if ".partial" not in str(p)}


def bytes_below(folder: str) -> dict[str, str]:
    """The SHA-256 of every file under a folder."""
    files = [f for f in sorted(Path(folder).rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def rows_of(source: Any) -> str:
    """The digest of an opened source: every row, every column, counts."""
    whole = hashlib.sha256(text([source.rows, source.tokens, source.documents, source.vocab_size]))
    for first in range(0, source.rows, 64):
        batch = source.read(range(first, min(first + 64, source.rows)))
        for name in sorted(batch):
            whole.update(np.ascontiguousarray(batch[name]).tobytes())
    for name in ("row_fill", "row_segments", "segment_document", "document_id", "document_tokens"):
        whole.update(np.ascontiguousarray(source.column(name)).tobytes())
    for row in range(source.rows):
        whole.update(b"".join(source.row_documents(row)))
    return whole.hexdigest()


def cached(path: str, length: int, tokenizer: str, cache: str) -> str:
    """The digest of the rows of text that is packed on first use."""
    from jaxpt import tokenizers
    from jaxpt.data.build import Packing
    from jaxpt.data.cache import packed_on_first_use

    return rows_of(packed_on_first_use(path, length, Packing(), tokenizers.load(tokenizer), Path(cache)))


def state(workdir: str) -> dict[str, Any]:
    """What a run has come to: newest checkpoint's digests, ledger and tokens, and the records without the clock's."""
    from jaxpt.checkpoints.checkpoints import finished_steps, read_run
    from jaxpt.training.metrics import read

    steps = finished_steps(Path(workdir))
    run = read_run(Path(workdir), steps[-1])
    kept = {k: run[k] for k in ("digests", "ledger", "tokens")}
    records = [{k: v for k, v in r.items() if "perf/" not in k} for r in read(Path(workdir) / "metrics.jsonl")]
    final = hashlib.sha256(text(kept)).hexdigest()
    whole = hashlib.sha256(text(records)).hexdigest()
    return {"step": steps[-1], "tokens": run["tokens"], "final": final, "records": whole}


def finite(workdir: str) -> dict[str, bool]:
    """For each kept checkpoint whether parameters and moments are finite, read by Orbax as they lie."""
    import jax
    import orbax.checkpoint as ocp

    out = {}
    for folder in sorted((Path(workdir) / "checkpoints").glob("[0-9]*")):
        if not folder.name.isdigit() or not (folder / "_CHECKPOINT_METADATA").exists():
            continue
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            trees = [reader.restore((folder / item).absolute()) for item in ("params", "opt_state")]
        out[folder.name] = all(bool(np.isfinite(np.asarray(x)).all()) for x in jax.tree.leaves(trees))
    return out


def train_counting(log: str, *argv: str) -> int:
    """`jaxpt train`, each batch that the loop takes noted in `log`: step, positions, and (source, row) of every row."""
    import jaxpt.cli
    from jaxpt.data.loader import Loader

    iterate = Loader.iterate

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        paths = [str(s.path) for s in self.sources.values()]
        for step, batch in iterate(self, *args, **more):
            taken = [f"{paths[s]}:{r}" for s, r in zip(batch["source_id"], batch["row_id"])]
            with open(log, "a") as out:
                out.write(json.dumps({"step": int(step), "positions": int(batch["tokens"].size), "rows": taken}) + "\n")
            yield step, batch

    Loader.iterate = counted
    return jaxpt.cli.main(["train", *argv])


def text(values: Any) -> bytes:
    """Plain values as bytes, keys in order."""
    return json.dumps(values, sort_keys=True, default=str).encode()
