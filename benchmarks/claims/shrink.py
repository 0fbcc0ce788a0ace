"""Is a student cut from a teacher better than one at random? Loss at the start, on the way, and tokens to get there.

A teacher is trained on real text (once, kept in --folder); students of one shape are initialised by each method and
trained on the same batches in the same order. Documents are held out; the scores and second moments of a cut come from
the teacher's training rows and are counted as consumed tokens.

python -m benchmarks.claims.shrink --text='english/*.jsonl.gz' --folder=runs/shrink
python -m benchmarks.claims.shrink --text=… --folder=… --seeds=3 --rates=1e-3,3e-3 --student_tokens=20000000
python -m benchmarks.claims.shrink --teacher=MODEL --samples=3000 --folder=runs/own --target=mlp=128,embed=48

A trained model given as --teacher is taken as it is, with its tokenizer; without --text the documents are samples that
it draws itself.
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.harness import at, held_out_batches, sources, teacher, train
from jaxpt.api import load
from jaxpt.cli.terminal import table
from jaxpt.data import Loader, StageData
from jaxpt.models.size import flops_per_token, param_count
from jaxpt.reshape.sequence import rewrites_of
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices, chain, gather
from jaxpt.reshape.target import LENGTHS, Target
from jaxpt.reshape.transforms.random_init import RandomInit
from jaxpt.reshape.transforms.subclone import Subclone
from jaxpt.sweeps.results import reached

METHODS = {
    "random": RandomInit(),
    "uniform": Subclone(selection="uniform"),
    "subclone": Subclone(),
    "scaled": Subclone(scaling="fan_in"),
    "compensated": Subclone(compensate=True),
}


def main() -> int:
    """Runs everything that is not in the folder's results yet, then writes table, figure and results.json."""
    a = checked(options(__doc__ or "", tuple(METHODS)), tuple(METHODS))
    a.folder.mkdir(parents=True, exist_ok=True)
    parent = load(a.teacher) if a.teacher else None
    packed, held_source, tokenizer = sources(a, parent)
    per_step = a.batch * a.length
    first = a.calibration if parent else a.teacher_tokens // per_step  # steps before the students' data
    total = first + a.student_tokens // per_step * max(a.seeds, a.random_seeds)
    repeat = -(-total * a.batch // packed.rows)
    loader = Loader({"text": packed}, [StageData(0, total, a.batch, a.length, {"text": 1.0})], repeat={"text": repeat})
    held = held_out_batches(held_source, a.batch)
    source, gap = teacher(a, loader, first, held, tokenizer, parent)
    print(
        f"teacher: {param_count(source.config):,} parameters, held-out loss {gap['start']:.3f} > {gap['end']:.3f} nats"
    )
    calibration = [loader.batch(i) for i in range(min(a.calibration, first))]
    setting = ReshapeSetting(Target(**a.lengths), calibration, {"text": packed.fingerprint}, log=lambda line: None)
    file = a.folder / "results.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kind = f"tokens={a.student_tokens // per_step * per_step} target={a.target}"
    for method, rate in itertools.product(a.methods.split(","), a.rates.split(",")):
        for seed in range(a.random_seeds if method == "random" else a.seeds):
            key = f"{method} lr={rate} seed={seed} {kind}"
            if key not in runs:
                runs[key] = student(source, setting, loader, first, (method, rate, seed), held, a)
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(runs, indent=1))
                partial.rename(file)
    cost = 0.0 if parent else flops_per_token(source.config, a.length, backward=True) * first * per_step
    print(report([r for k, r in runs.items() if kind in k], a.folder, gap, cost))
    print(f"the training rows are read up to {repeat} time(s)")
    return 0


def student(
    source: ModelSlices,
    setting: ReshapeSetting,
    loader: Loader,
    first: int,
    which: tuple[str, str, int],
    held: list[Any],
    a: Any,
) -> dict[str, Any]:
    """Makes the student `which` (method, learning rate, seed) and trains it; returns what is kept of the run."""
    method, rate, seed = which
    begun, cpu = time.monotonic(), time.process_time()
    made = rewrites_of(source, [METHODS[method]], dataclasses.replace(setting, seed=seed))
    small, steps = chain(source, made), a.student_tokens // (a.batch * a.length)
    offset = first + seed * steps  # a seed is another part of the data, the same for every method
    _, curve = train(small.config, gather(small), lambda i: loader.batch(offset + i), steps, float(rate), held, a)
    entry = made[-1].entry
    return {
        "method": method, "rate": rate, "seed": seed, "curve": curve,
        "seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - cpu,
        "parameters": param_count(small.config), "tokens": entry["tokens"], "flops": entry["flops"],
    }  # fmt: skip


def report(runs: list[dict[str, Any]], folder: Path, gap: dict[str, float], teacher_flops: float) -> str:
    """Returns the table (means over seeds, best rate of each method) and draws the figure."""
    by: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        mine = [r for r in runs if r["method"] == method]
        rates = {r["rate"] for r in mine}
        if rates:
            best = min(rates, key=lambda rate: np.mean([r["curve"][-1][1] for r in mine if r["rate"] == rate]))
            by[method] = [r for r in mine if r["rate"] == best]
    level = float(np.mean([r["curve"][-1][1] for r in by["random"]])) if "random" in by else float("nan")
    rows = []
    for method, mine in by.items():
        losses = [np.mean([at(r["curve"], p) for r in mine]) for p in (0.0, 0.1, 0.3, 1.0)]
        spread = float(np.std([r["curve"][-1][1] for r in mine]))
        mean = [(p[0][0], float(np.mean([loss for _, loss in p]))) for p in zip(*(r["curve"] for r in mine))]
        tokens = reached(mean, level)
        rows.append(
            [
                method,
                mine[0]["rate"],
                len(mine),
                *map(float, losses),
                spread,
                tokens,
                mine[0]["tokens"],
                mine[0]["flops"],
            ]
        )
    head = ["method", "lr", "seeds", "loss at 0", "10 %", "30 %", "100 %", "± (seeds)", "tokens to random's end"]
    head += ["tokens to make it", "FLOPs to make it"]
    _figure(by, folder)
    difference = gap["start"] - gap["end"]
    lines = [f"the teacher's held-out gap to random initialisation is {difference:.2f} nats per token"]
    if teacher_flops:
        lines[0] += f"; {teacher_flops:.3g} FLOPs were spent on it"
    if difference < 1:
        lines.append("the gap is below 1 nat: no order is claimed")
    return "\n".join([table(head, rows), *lines, str(folder / "shrink.png")])


def _figure(by: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for i, (method, mine) in enumerate(by.items()):
        for j, run in enumerate(mine):
            tokens, losses = zip(*run["curve"])
            ax.plot(np.array(tokens) / 1e6, losses, color=f"C{i}", label=method if j == 0 else None, lw=1.4)
    ax.set(xlabel="student's training tokens, millions", ylabel="held-out loss, nats per token")
    ax.legend()
    ax.grid(alpha=0.3)
    figure.savefig(folder / "shrink.png", dpi=120)
    plt.close(figure)


def options(description: str, methods: Sequence[str]) -> argparse.ArgumentParser:
    """The options; the defaults are the half-hour run."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", help="glob of documents (jsonl, jsonl.gz, jsonl.zst, parquet)")
    p.add_argument("--teacher", metavar="PATH", help="a bundle, run or Hugging Face directory instead of training one")
    p.add_argument("--samples", type=int, default=2000, help="documents the teacher draws where --text is not given")
    p.add_argument("--folder", type=Path, required=True, help="tokenizer, data, teacher and results are kept here")
    p.add_argument("--vocab", type=int, default=1024)
    p.add_argument("--length", type=int, default=128)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--held_out", type=float, default=0.1, help="share of documents")
    p.add_argument("--embed", type=int, default=128)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--kv_heads", type=int, default=4)
    p.add_argument("--mlp", type=int, default=320)
    p.add_argument("--teacher_tokens", type=int, default=1_500_000)
    p.add_argument("--teacher_rate", type=float, default=3e-3)
    p.add_argument("--target", default="embed=96,mlp=208,heads=4,kv_heads=2,layers=3", help="the student's lengths")
    p.add_argument("--student_tokens", type=int, default=600_000)
    p.add_argument("--rates", default="3e-3", help="peak learning rates, comma-separated")
    p.add_argument("--seeds", type=int, default=1, help="of every method but random")
    p.add_argument("--random_seeds", type=int, default=2)
    p.add_argument("--calibration", type=int, default=16, help="batches for scores and second moments")
    p.add_argument("--methods", default=",".join(methods))
    return p


def checked(p: argparse.ArgumentParser, methods: Sequence[str]) -> argparse.Namespace:
    """The command line as `options` reads it, with the target's `lengths`."""
    a = p.parse_args()
    if not (a.text or a.teacher):
        p.error("give --text, --teacher or both")
    if unknown := [m for m in a.methods.split(",") if m not in methods]:
        p.error(f"--methods: {unknown[0]!r} is not among {', '.join(methods)}")
    try:
        a.lengths = {k: int(v) for k, v in (x.split("=") for x in a.target.split(","))}
        [float(r) for r in a.rates.split(",")]
    except ValueError:
        p.error("--target is written embed=80,mlp=224 (whole numbers), --rates 1e-3,3e-3")
    if wrong := [k for k in a.lengths if k not in LENGTHS]:
        p.error(f"--target: {wrong[0]!r} is not a length; known are {', '.join(LENGTHS)}")
    return a


if __name__ == "__main__":
    raise SystemExit(main())
