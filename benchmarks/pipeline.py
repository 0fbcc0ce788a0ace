"""A whole pipeline over many kinds of text, from raw files to packed sources, killed on the way and trained on.

`python -m benchmarks.pipeline --text=FOLDER --tokenizer=TOKENIZER --folder=DIR` runs `configs/data/shared_text.py` once
without interruption and once with three SIGKILLs in the middle of a step; both must leave the same bytes. Then
a small model trains on an exact mixture of the packed sources. Run again, what is done stays.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from data_tools.reports import page, report
from jaxpt.cli.terminal import table
from jaxpt.data.packed import PackedSource

KILLED_IN = ("web", "dedup", "tokenize")
READ_ONLY_AGAIN = ("steps/", "signatures/", "/lines/", "report.html")  # notes that hold paths, intermediate files


def arguments(text: str, tokenizer: str, workdir: Path) -> list[str]:
    """Returns the command that runs the pipeline."""
    config = Path(__file__).parents[1] / "configs/data/shared_text.py"
    command = [sys.executable, "-m", "data_tools", "run", f"--config={config}:{text}", f"--workdir={workdir}"]
    return [*command, f"--config.tokenizer={tokenizer}"]


def killed(command: list[str], workdir: Path) -> list[str]:
    """Kills the run in each step of `KILLED_IN` once a second after the step began; returns what each kill met."""
    met = []
    for name in KILLED_IN:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        note = workdir / "steps" / f"{name}.json"
        while process.poll() is None and not (note.exists() and any((workdir / name).rglob("*.tmp"))):
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = len(list((workdir / name).rglob("*.tmp")))
        whole = len(list((workdir / name / "manifests").glob("*.json")))
        met.append(f"{name}: {whole} shards finished, {left} files half-written")
    return met


def digests(workdir: Path) -> dict[str, str]:
    """Returns the hash of every output file, by its place in the workdir."""
    files = {str(f.relative_to(workdir)): f for f in sorted(workdir.rglob("*")) if f.is_file()}
    outputs = {n: f for n, f in files.items() if not any(x in f"/{n}" for x in READ_ONLY_AGAIN)}
    return {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in outputs.items()}


def train(workdir: Path, steps: int) -> list[float]:
    """Trains a small model on all packed sources in proportion to their tokens; returns the losses."""
    from jaxpt.commands.train import train as run
    from jaxpt.config.schema import build
    from jaxpt.training.config import RunConfig
    from jaxpt.training.metrics import read

    sources = [PackedSource.open(f.parent) for f in sorted((workdir / "pack").glob("*/source.json"))]
    model = {"vocab_size": sources[0].vocab_size, "embed": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 176}
    stage = {"duration": f"{steps} steps", "batch_size": 8, "sequence_length": sources[0].sequence_length}
    names = {f"s{i}": source for i, source in enumerate(sources) if source.rows >= 8 * steps}
    config = {
        "model": {**model, "layers": 2, "tie_embeddings": True},
        "sources": {name: {"path": str(source.path)} for name, source in names.items()},
        "stages": [{**stage, "mixture": {name: float(source.tokens) for name, source in names.items()}}],
        "optimizer": {"learning_rate": 3e-3},
        "metrics": {"every": 1, "tensorboard": False},
    }
    run(build(RunConfig, config), workdir.parent / "run")
    return [r["train/loss"] for r in read(workdir.parent / "run/metrics.jsonl") if "train/loss" in r]


def main() -> None:
    """Runs, kills, compares, trains and prints."""
    parser = argparse.ArgumentParser("python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--text", required=True, help="folder laid out as configs/data/shared_text.py says")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--folder", required=True, type=Path, help="where the runs go")
    parser.add_argument("--steps", type=int, default=20, help="of training")
    args = parser.parse_args()
    whole, cut = args.folder / "whole", args.folder / "killed"
    begun = time.time()
    subprocess.run(arguments(args.text, args.tokenizer, whole), check=True)
    took = time.time() - begun
    met = killed(arguments(args.text, args.tokenizer, cut), cut)
    subprocess.run(arguments(args.text, args.tokenizer, cut), check=True)
    a, b = digests(whole), digests(cut)
    differ = sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))
    print(json.dumps({"seconds": round(took), "files": len(a), "differ": differ, "kills": met}, indent=1))
    steps = report.look(whole)
    (whole / "report.html").write_text(page.page(steps, "pipeline", 0.5), encoding="utf-8")
    print(table(["step", "source", "rule", "documents", "words", "of its words"], report.rows(steps)))
    print(*report.alarms(steps, 0.5), sep="\n")
    losses = train(whole, args.steps)
    print(f"trained {args.steps} steps on the packed sources: loss {losses[0]:.3f} to {losses[-1]:.3f}")
    if differ:
        raise SystemExit(f"{len(differ)} files differ from those of the run that was left alone: {differ[:5]}")


if __name__ == "__main__":
    main()
