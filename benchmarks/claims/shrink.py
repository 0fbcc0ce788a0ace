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
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpt import tokenizers
from jaxpt.api import load
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig, ShardingConfig
from jaxpt.data import Loader, PackedSource, StageData
from jaxpt.data.build import Packing, build
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.errors import JaxptError
from jaxpt.evaluation.generation import generate
from jaxpt.models import Compute, Model, ModelConfig, init_params, param_specs, uniform_layers
from jaxpt.optim.optimizers import make_optimizer
from jaxpt.optim.schedules import learning_rate, resolve
from jaxpt.reshape.calibrate import loss
from jaxpt.reshape.config import TransformConfig
from jaxpt.reshape.sequence import Setting, plans
from jaxpt.reshape.stream import InMemory, Source, chain, gather
from jaxpt.reshape.target import LENGTHS, Target
from jaxpt.sharding import batch_sharding
from jaxpt.terminal import progress, table
from jaxpt.training.batches import place
from jaxpt.training.state import make_layout, new_opt_state, state_shardings
from jaxpt.training.step import StepSpec, make_step

METHODS = {
    "random": TransformConfig("random_init"),
    "uniform": TransformConfig("subclone", selection="uniform"),
    "subclone": TransformConfig("subclone"),
    "scaled": TransformConfig("subclone", scaling="fan_in"),
    "compensated": TransformConfig("subclone", compensate=True),
}
POINTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the budget, where the loss is taken


def sources(a: argparse.Namespace, parent: Model | None = None) -> tuple[PackedSource, PackedSource, Any]:
    """Tokenizer and packed rows of training and held-out documents, made once; `parent` brings its tokenizer."""
    model, train, held = a.folder / "tokenizer.model", a.folder / "train", a.folder / "held_out"
    if not held.exists():
        documents = [d["text"] for f in list_files(a.text) for d in read_documents(f)] if a.text else samples(parent, a)
        every = max(2, round(1 / a.held_out))
        parts = {"held_out": documents[::every], "train": [d for i, d in enumerate(documents) if i % every]}
        if parent is None and not model.exists():
            tokenizers.train_sentencepiece(iter(parts["train"]), model, a.vocab)
        words = tokenizers.load(model) if parent is None else parent.tokenizer
        for name in ("train", "held_out"):
            file = a.folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(parts[name])))
            if not (a.folder / name).exists():
                build(str(file), a.folder / name, words, a.length, Packing(packer="concat"))
    words = tokenizers.load(model) if parent is None else parent.tokenizer
    return PackedSource.open(train), PackedSource.open(held), words


def samples(parent: Model, a: argparse.Namespace) -> list[str]:
    """`a.samples` documents that `parent` draws at temperature 1, each of at most 250 tokens."""
    words, out = parent.tokenizer, []
    with progress(a.samples, "drawing", "sample") as bar:
        for start in range(0, a.samples, 250):
            prompts = [[words.bos_id]] * min(250, a.samples - start)
            made = generate(
                parent.config, parent.params, prompts, 250, seed=start, stop_ids=(words.bos_id, words.eos_id)
            )
            out += [words.decode([t for t in ids if t not in (words.bos_id, words.eos_id)]) for ids in made]
            bar.update(len(made))
    return out


def held_out_batches(source: PackedSource, batch: int, most: int = 8) -> list[Any]:
    """Up to `most` batches of rows that lie evenly over the whole held-out source, so that every document counts."""
    count = min(most, source.rows // batch)
    if not count:
        raise JaxptError(f"{source.path} has {source.rows} rows, a batch needs {batch}; give more text")
    rows = [i * source.rows // (count * batch) for i in range(count * batch)]
    return [source.read(rows[i : i + batch]) for i in range(0, len(rows), batch)]


def train(
    config: ModelConfig, params: Any, batches: Any, steps: int, rate: float, held: list[Any], a: argparse.Namespace
) -> tuple[Any, list[tuple[int, float]]]:
    """Trains `params` on `batches(step)`; returns them with (tokens, held-out loss) at every point of the budget."""
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(), param_specs(config))
    step = make_step(
        StepSpec(config, ObjectiveConfig(), Compute(), a.batch, a.length, 1, (), 1.0, 1), optimizer, layout
    )
    params = jax.tree.map(jax.device_put, params, layout.params)
    state = {
        "params": params,
        "opt_state": new_opt_state(optimizer, params, state_shardings(layout, optimizer, params)),
    }
    schedule = resolve(ScheduleConfig(warmup="5%"), steps, a.batch * a.length)
    measured = {round(p * steps) for p in POINTS}
    curve = [(0, loss(InMemory(config, state["params"]), held))]
    with progress(steps, "training", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            data = place(batches(i), batch_sharding(layout.mesh), a.batch)
            state, _ = step(state, data, np.float32(learning_rate(schedule, i, rate)))
            bar.update()
            if i + 1 in measured:
                curve.append(((i + 1) * a.batch * a.length, loss(InMemory(config, state["params"]), held)))
    return jax.tree.map(np.asarray, state["params"]), curve


def teacher(
    a: argparse.Namespace, loader: Loader, steps: int, held: list[Any], tokenizer: Any, parent: Model | None = None
) -> tuple[Source, dict]:
    """The teacher (`parent`, or one trained once), and its held-out losses at random initialisation and now."""
    if parent is not None:
        given = InMemory(parent.config, parent.params)
        start = loss(InMemory(parent.config, init_params(parent.config, 0)), held)
        return given, {"start": start, "end": loss(given, held)}
    path = a.folder / "teacher"
    if not path.exists():
        config = ModelConfig(
            tokenizer.vocab_size, a.embed, a.heads, a.kv_heads, a.embed // a.heads, a.mlp, uniform_layers(a.layers),
            tie_embeddings=True, max_positions=a.length,
        )  # fmt: skip
        start = init_params(config, 0)
        params, curve = train(config, start, loader.batch, steps, a.teacher_rate, held, a)
        entry = {"op": "train", "seed": 0, "tokens": steps * a.batch * a.length, "curve": curve}
        save_bundle(Model(config, params, tokenizer, (entry,)), path)
    bundle = open_bundle(path)
    return bundle, {"start": bundle.lineage[-1]["curve"][0][1], "end": loss(bundle, held)}


def main() -> int:
    """Runs everything that is not in the folder's results yet, then writes table, figure and results.json."""
    a = arguments()
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
        f"teacher: {source.config.param_count():,} parameters, held-out loss {gap['start']:.3f} > {gap['end']:.3f} nats"
    )
    calibration = [loader.batch(i) for i in range(min(a.calibration, first))]
    setting = Setting(Target(**a.lengths), calibration, {"text": packed.fingerprint}, tell=lambda line: None)
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
    cost = 0.0 if parent else source.config.flops_per_token(a.length, backward=True) * first * per_step
    print(report([r for k, r in runs.items() if kind in k], a.folder, gap, cost))
    print(f"the training rows are read up to {repeat} time(s)")
    return 0


def student(
    source: Source, setting: Setting, loader: Loader, first: int, which: tuple[str, str, int], held: list[Any], a: Any
) -> dict[str, Any]:
    """Makes the student `which` (method, learning rate, seed) and trains it; returns what is kept of the run."""
    method, rate, seed = which
    begun, cpu = time.monotonic(), time.process_time()
    made = plans(source, [METHODS[method]], dataclasses.replace(setting, seed=seed))
    small, steps = chain(source, made), a.student_tokens // (a.batch * a.length)
    offset = first + seed * steps  # a seed is another part of the data, the same for every method
    _, curve = train(small.config, gather(small), lambda i: loader.batch(offset + i), steps, float(rate), held, a)
    entry = made[-1].entry
    return {
        "method": method, "rate": rate, "seed": seed, "curve": curve,
        "seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - cpu,
        "parameters": small.config.param_count(), "tokens": entry["tokens"], "flops": entry["flops"],
    }  # fmt: skip


def reached(curve: list[Any], level: float) -> float:
    """Tokens at which a curve first falls to `level`, interpolated; NaN if it never does."""
    for (t0, l0), (t1, l1) in itertools.pairwise(curve):
        if l0 <= level:
            return float(t0)
        if l1 <= level:
            return t0 + (t1 - t0) * (l0 - level) / (l0 - l1)
    return float("nan")


def at(curve: list[Any], share: float) -> float:
    """The loss measured nearest to a share of the budget."""
    return float(min(curve, key=lambda point: abs(point[0] - share * curve[-1][0]))[1])


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
        tokens = float(np.mean([reached(r["curve"], level) for r in mine]))
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
    told = f"the teacher's held-out gap to random initialisation is {difference:.2f} nats per token"
    if teacher_flops:
        told += f"; {teacher_flops:.3g} FLOPs were spent on it"
    if difference < 1:
        told += "\nthe gap is below 1 nat: no order is claimed"
    return f"{table(head, rows)}\n{told}\n{folder / 'shrink.png'}"


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


def arguments() -> argparse.Namespace:
    """The options; the defaults are the half-hour run."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    p.add_argument("--methods", default=",".join(METHODS))
    a = p.parse_args()
    if not (a.text or a.teacher):
        p.error("give --text, --teacher or both")
    if unknown := [m for m in a.methods.split(",") if m not in METHODS]:
        p.error(f"--methods: {unknown[0]!r} is not among {', '.join(METHODS)}")
    try:
        a.lengths = {k: int(v) for k, v in (x.split("=") for x in a.target.split(","))}
        [float(r) for r in a.rates.split(",")]
    except ValueError:
        p.error("--target is written embed=80,mlp=224 (whole numbers), --rates 1e-3,3e-3")
    if wrong := [k for k in a.lengths if k not in LENGTHS]:
        p.error(f"--target: {wrong[0]!r} is no length; there are {', '.join(LENGTHS)}")
    return a


if __name__ == "__main__":
    raise SystemExit(main())
