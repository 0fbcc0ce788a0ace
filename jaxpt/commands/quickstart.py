"""`jaxpt quickstart`: real text that is on every machine, a tokenizer, a trained model, a report to look at."""

import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path

from jaxpt import api, tokenizers
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.commands import train as training
from jaxpt.config.file import load
from jaxpt.data import standard_library
from jaxpt.data.build import Packing, build
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, inside
from jaxpt.generation import Sampling, continue_texts
from jaxpt.reporting import write_report
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read

HELP = "prepare real text, train a small model on it, evaluate it, sample from it, write a report"

EPILOG = """\
example:
  jaxpt quickstart --workdir=runs/quickstart
  jaxpt quickstart --workdir=runs/short --config.stages[0].duration="40 steps"

What is there already is used again; removed parts are made again. Any key of configs/quickstart.py may be set with
--config.key=value.
"""

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "quickstart.py"
SOURCES = ("code", "prose", "arithmetic")
PROMPTS = {
    "code": "def read_lines(path):\n",
    "prose": "Return the ",
    "arithmetic": "Question: Ada has 12 apples at home.",
}


def main(argv: Sequence[str]) -> int:
    """Parses arguments and does the whole job."""
    parser = Parser("jaxpt quickstart", HELP, EPILOG, lambda: RunConfig)
    parser.add_argument("--workdir", default="runs/quickstart", metavar="DIR")
    args, overrides = parser.parse_overrides(argv)
    workdir = Path(args.workdir)
    config = load(RunConfig, f"{CONFIG}:{workdir / 'data'}", overrides)
    assert config.model.vocab_size is not None
    began = time.monotonic()
    with Lock(inside(workdir / "data"), workdir / "data").acquire():
        prepare(workdir / "data", config.model.vocab_size, config.stages[0].sequence_length)
    code = training.train(config, workdir / "run")
    if code:
        return code
    notes = {"Held-out text against gzip": results(workdir), "Samples": samples(workdir / "run", config)}
    print("\n" + "\n".join(notes.values()))
    report = write_report(workdir / "run", notes)
    print(f"\nreport: {report}\n{time.monotonic() - began:.0f} s in all")
    return 0


def prepare(folder: Path, vocab_size: int, sequence_length: int) -> None:
    """Writes the text, trains the tokenizer and packs the sources, as far as they are not there."""
    text = folder / "text"
    if not (text / "done").is_file():
        made = {f"{name}.{part}.jsonl" for name in SOURCES for part in ("train", "held_out")}
        if text.is_dir() and {p.name for p in text.iterdir() if not p.name.startswith(".")} - made:
            raise JaxptError(f"{text} holds files of another kind; give another --workdir, or move them away")
        sizes = standard_library.write(text)
        print(f"text: {sum(sizes.values()) / 1e6:.1f} MB of the standard library's code and prose, and of arithmetic")
        (text / "done").touch()
    model = folder / "tokenizer" / "tokenizer.model"
    if not model.is_file():
        print("training a tokenizer …", flush=True)
        documents = (json.loads(line)["text"] for name in SOURCES for line in _sample(text / f"{name}.train.jsonl"))
        tokenizers.train_sentencepiece(documents, model, vocab_size)
    tokenizer = tokenizers.load(model.parent)
    for name in SOURCES:
        if (folder / "packed" / name).exists():
            continue
        (folder / "packed").mkdir(exist_ok=True)
        _pack(text / f"{name}.train.jsonl", folder / "packed" / name, tokenizer, sequence_length)


def _pack(text: Path, target: Path, tokenizer: Tokenizer, sequence_length: int) -> None:
    size = sum(1 for _ in text.open(encoding="utf-8"))
    with progress(size, f"pack {target.name}", "doc") as bar:
        how = Packing(bos=True)
        build(
            str(text), target, tokenizer, sequence_length, how, report=lambda documents, tokens: bar.update(documents)
        )


def _sample(file: Path, characters: int = 1_200_000) -> list[str]:
    """The first lines of a file (it is in random order) up to so many characters: enough for a small tokenizer."""
    lines, seen = [], 0
    for line in file.open(encoding="utf-8"):
        if seen > characters:
            break
        lines.append(line)
        seen += len(line)
    return lines


def results(workdir: Path) -> str:
    """Returns the table of held-out bits per byte, before and after, against gzip -9."""
    records = [r for r in read(workdir / "run" / "metrics.jsonl") if any(k.startswith("eval/bpb/") for k in r)]
    rows = []
    for name in SOURCES:
        lines = (workdir / "data" / "text" / f"{name}.held_out.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"].encode() for line in lines[:200]]
        size = sum(map(len, texts))
        alone = 8 * sum(len(gzip.compress(t, 9)) for t in texts) / size
        joined = 8 * len(gzip.compress(b"".join(texts), 9)) / size
        rows.append([name, size, records[0][f"eval/bpb/{name}"], records[-1][f"eval/bpb/{name}"], alone, joined])
    head = ["held out", "bytes", "bits/byte before", "after", "gzip -9 per file", "gzip -9 joined"]
    return table(head, rows)


def samples(run: Path, config: RunConfig, tokens: int = 80) -> str:
    """Returns text that the trained model continues, a prompt per source."""
    texts = continue_texts(
        api.load(run), list(PROMPTS.values()), tokens, sampling=Sampling(0.7, top_p=0.9), seed=config.seed
    )
    return "\n".join(f"\n--- {name} ---\n{text}" for name, text in zip(PROMPTS, texts))
