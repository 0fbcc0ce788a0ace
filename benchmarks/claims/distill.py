"""Does a cut student learn more from its teacher than from the text alone? Held-out loss after the same tokens.

A teacher is trained on real text (once, kept in --folder) and cut; every arm trains that same student on the same
batches in the same order: on the text, from the teacher's logits at temperature 1, 2 or falling, from hidden states
besides, and from a cache of its targets (offline: 50 draws of each position, written once). The arms differ in the loss
alone; the FLOPs of each, teacher included, are beside it (offline: the student's, what the cache took is extra).

python -m benchmarks.claims.distill --text='english/*.jsonl.gz' --folder=runs/distill
python -m benchmarks.claims.distill --text=… --folder=… --seeds=3 --rates=1e-3,3e-3 --student_tokens=20000000
python -m benchmarks.claims.distill --teacher=MODEL --samples=3000 --folder=runs/own --target=layers=3
python -m benchmarks.claims.distill --text=… --folder=… --larger=MODEL

A trained model given as --teacher is cut and teaches; --larger=MODEL, of the same tokenizer, teaches in its place.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.claims.harness import POINTS, at, held_out_batches, sources, teacher
from jaxpt.api import load
from jaxpt.cli.terminal import progress, table
from jaxpt.commands.distill_cache import summary
from jaxpt.data import Loader, PackedSource, StageData
from jaxpt.data.source_targets import SourceTargets
from jaxpt.data.target_cache import TargetCache
from jaxpt.data.target_writer import begin as begin_cache
from jaxpt.data.target_writer import fill
from jaxpt.errors import JaxptError
from jaxpt.models import Compute, ModelConfig, param_specs
from jaxpt.models.size import param_count
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import FrozenFacts, Objective, Progress
from jaxpt.objectives.ramp import Ramp
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.reshape.sequence import rewrites_of
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import InMemory, ModelSlices, chain, gather
from jaxpt.reshape.target import LENGTHS, Target
from jaxpt.reshape.transforms.subclone import Subclone
from jaxpt.reshape.walk import loss
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import step_arguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.starting_point import open_start
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from jaxpt.training.teacher_cache import TargetOptions, TeacherTargets, origin_of

HALF = Ramp(0.9, 0.5)
ARMS: dict[str, Objective] = {
    "plain": NextToken(),
    "T=1": Distill(teacher="it", alpha=HALF, temperature=Ramp(1.0)),
    "T=2": Distill(teacher="it", alpha=HALF, temperature=Ramp(2.0)),
    "T falling": Distill(teacher="it", alpha=HALF, temperature=Ramp(2.0, 1.0)),
    "only logits": Distill(teacher="it", alpha=Ramp(1.0), temperature=Ramp(1.0)),
    "hidden": Distill(teacher="it", alpha=HALF, temperature=Ramp(1.0), hidden=Ramp(0.3, 0.0)),
    "offline": Distill(cache={"text": "it"}, alpha=HALF, temperature=Ramp(1.0)),
}


def main() -> int:
    """Runs everything that is not in the folder's results yet, then prints the table."""
    a = arguments()
    a.folder.mkdir(parents=True, exist_ok=True)
    parent = load(a.teacher) if a.teacher else None
    packed, held_source, tokenizer = sources(a, parent)
    per_step = a.batch * a.length
    first = 0 if parent else a.teacher_tokens // per_step  # steps before the students' data
    total = first + a.student_tokens // per_step * a.seeds
    repeat = -(-total * a.batch // packed.rows)
    loader = Loader({"text": packed}, [StageData(0, total, a.batch, a.length, {"text": 1.0})], repeat={"text": repeat})
    held = held_out_batches(held_source, a.batch)
    source, gap = teacher(a, loader, first, held, tokenizer, parent)
    setting = ReshapeSetting(Target(**a.lengths), [], None, log=lambda line: None)
    rewrites = rewrites_of(source, [Subclone(depth="middle")], setting)
    small, layers = chain(source, rewrites), tuple(rewrites[-1].entry["layers"])
    teaches: ModelSlices = source
    if a.larger:
        larger = load(a.larger)
        if larger.tokenizer is None or larger.tokenizer.fingerprint != tokenizer.fingerprint:
            raise JaxptError(f"--larger={a.larger} has another tokenizer than the student")
        teaches, layers = InMemory(larger.config, larger.params), None
    print(
        f"parent: {param_count(source.config):,} parameters, held-out loss {gap['start']:.3f} > {gap['end']:.3f} nats"
    )
    print(f"teacher: {param_count(teaches.config):,} parameters; student: {param_count(small.config):,}")
    cached = written(packed, a) if any(ARMS[arm].cached_targets() for arm in a.arms.split(",")) else None
    file = a.folder / "distill.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kind = f"tokens={a.student_tokens // per_step * per_step} target={a.target} from={a.larger or 'parent'}"
    asked = []
    for arm, rate, seed in itertools.product(a.arms.split(","), a.rates.split(","), range(a.seeds)):
        key = f"{arm} lr={rate} seed={seed} {kind}"
        asked.append(key)
        if key not in runs:
            read = with_targets(loader, cached) if cached and ARMS[arm].cached_targets() else loader.batch
            runs[key] = student(small, teaches, layers, (arm, rate, seed), read, first, held, a)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(runs, indent=1))
            partial.rename(file)
    best = best_runs([runs[key] for key in asked])
    print(report(best))
    print(f"the training rows are read up to {repeat} time(s)")
    draw(best, a.folder / "distill.png")
    return 0


def written(packed: PackedSource, a: argparse.Namespace) -> SourceTargets:
    """The targets of whoever teaches for all training rows, written once; prints what that took."""
    start = open_start(a.larger or a.teacher or str(a.folder / "teacher"), "params", "--teacher")
    origin = origin_of(packed, start, None, TargetOptions())
    path, began = a.folder / f"targets-{origin['teacher'][:8]}", time.monotonic()
    layout = make_layout(start.model, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    with progress(packed.rows * a.length, "distill-cache", "tok", scale=True) as bar:
        rows_of = TeacherTargets(packed, origin, start, layout, a.batch, bar.update)
        done = sum(f["records"] for _, f in fill(path, begin_cache(path, origin, 1024, start.description), rows_of))
    cache = TargetCache.open(path)
    print(f"{summary(cache)}; {done * a.length / (time.monotonic() - began):,.0f} tokens/s written now")
    return SourceTargets({"text": cache}, {"text": packed})


def with_targets(loader: Loader, targets: SourceTargets) -> Callable[[int], Any]:
    """Batches of a step, with the teacher's targets."""

    def read(step: int) -> Any:
        b = loader.batch(step)
        return {**b, **targets.read(b["source_id"], b["row_id"], b["loss_weights"])}

    return read


def student(
    small: ModelSlices,
    teaches: ModelSlices,
    layers: tuple[int, ...] | None,
    which: tuple[str, str, int],
    read: Callable[[int], Any],
    first: int,
    held: list[Any],
    a: argparse.Namespace,
) -> dict[str, Any]:
    """Trains the student by `which` (arm, learning rate, seed); returns what is kept of the run."""
    arm, rate, seed = which
    steps, cpu = a.student_tokens // (a.batch * a.length), time.process_time()
    distils = bool(ARMS[arm].frozen())
    facts = {"teacher": FrozenFacts(teaches.config, layers)} if distils else {}
    objective = ARMS[arm].beside(small.config, facts, "objective")
    offset = first + seed * steps  # a seed is another part of the data, the same for every arm
    curve, last = trained(small, teaches, objective, lambda i: read(offset + i), steps, float(rate), held, a)
    configs: dict[str, ModelConfig] = {"teacher": teaches.config} if distils else {}
    flops = objective.flops_per_token(small.config, configs, a.length) * steps * a.batch * a.length
    return {
        "arm": arm, "rate": rate, "seed": seed, "curve": curve, "last": last, "flops": flops,
        "cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip


def trained(
    small: ModelSlices,
    teaches: ModelSlices,
    objective: Objective,
    batches: Any,
    steps: int,
    rate: float,
    held: list[Any],
    a: argparse.Namespace,
) -> tuple[list[tuple[int, float]], dict[str, float]]:
    """Returns (tokens, held-out loss) at points of the budget, and what the last step's batch gave."""
    config, frozen = small.config, {"teacher": teaches.config} if objective.frozen() else {}
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(config))
    step = make_step(
        StepSpec(config, objective, Compute(), a.batch, a.length, 1, (), 1), optimizer, layout, frozen=frozen
    )
    state = new_state(layout, optimizer, jax.tree.map(jax.device_put, gather(small), layout.params))
    extra, _ = begin({}, make_extra(objective, config), layout, 0, fresh=False)
    state = state._replace(extra=extra)
    params = {"teacher": jax.device_put(gather(teaches), layout.of(param_specs(teaches.config)))} if frozen else {}
    schedule, measured = resolve(Cosine(warmup="5%"), steps, a.batch * a.length), {round(p * steps) for p in POINTS}
    curve, metrics = [(0, loss(InMemory(config, state.params), held))], {}
    with progress(steps, "training", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            data, now = place(batches(i), batch_sharding(layout.mesh), a.batch), learning_rate(schedule, i, rate)
            given = step_arguments(objective, Progress(i, steps, a.batch * a.length), now, rate, step=i, frozen=params)
            state, metrics = step(state, data, given)
            bar.update()
            if i + 1 in measured:
                curve.append(((i + 1) * a.batch * a.length, loss(InMemory(config, state.params), held)))
    names = ("train/divergence", "train/agreement", "train/hidden_loss")
    return curve, {name: float(metrics[name]) for name in names if name in metrics}


def best_runs(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the runs of each arm, all seeds of its best rate."""
    out = {}
    for arm in dict.fromkeys(r["arm"] for r in runs):
        mine = [r for r in runs if r["arm"] == arm]
        end = lambda rate, mine=mine: np.mean([r["curve"][-1][1] for r in mine if r["rate"] == rate])  # noqa: E731
        best = min({r["rate"] for r in mine}, key=end)
        out[arm] = [r for r in mine if r["rate"] == best]
    return out


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Held-out loss over tokens, means over seeds, and beside it the difference to the first arm."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    curve = lambda mine: np.mean([[l for _, l in r["curve"]] for r in mine], axis=0)  # noqa: E731
    first, base = next((arm, curve(mine)) for arm, mine in runs.items())
    for i, (arm, mine) in enumerate(runs.items()):
        tokens, style = [t / 1e3 for t, _ in mine[0]["curve"]], {"color": f"C{i}", "lw": 1.4, "marker": "o", "ms": 2.5}
        left.plot(tokens, curve(mine), label=f"{arm}, rate {mine[0]['rate']}", **style)
        right.plot(tokens, curve(mine) - base, **style)
    left.set(xlabel="thousand tokens", ylabel="held-out loss, nats per token")
    right.set(xlabel="thousand tokens", ylabel=f"difference to {first}, nats")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the table: means over seeds, at the best rate of each arm."""
    rows = []
    for arm, mine in runs.items():
        losses = [float(np.mean([at(r["curve"], p) for r in mine])) for p in (0.0, 0.1, 0.3, 1.0)]
        spread = float(np.std([r["curve"][-1][1] for r in mine]))
        last = {k: float(np.mean([r["last"][k] for r in mine])) for k in mine[0]["last"]}
        facts = [last.get(f"train/{k}", "") for k in ("divergence", "agreement", "hidden_loss")]
        cpu = round(float(np.mean([r["cpu_seconds"] for r in mine])))
        rows.append([arm, mine[0]["rate"], len(mine), *losses, spread, *facts, f"{mine[0]['flops']:.3g}", cpu])
    head = ["arm", "lr", "seeds", "loss at 0", "10 %", "30 %", "100 %", "± (seeds)", "divergence", "agreement"]
    return table([*head, "hidden", "FLOPs", "CPU s"], rows)


def arguments() -> argparse.Namespace:
    """The options; the defaults are a run of half an hour."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", help="glob of documents (jsonl, jsonl.gz, jsonl.zst, parquet)")
    p.add_argument("--teacher", metavar="PATH", help="a bundle, run or Hugging Face directory instead of training one")
    p.add_argument("--larger", metavar="PATH", help="a larger model of the same tokenizer that teaches")
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
    p.add_argument("--target", default="layers=2", help="the student's lengths")
    p.add_argument("--student_tokens", type=int, default=600_000)
    p.add_argument("--rates", default="3e-3", help="peak learning rates, comma-separated")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--arms", default=",".join(ARMS))
    a = p.parse_args()
    if not (a.text or a.teacher):
        p.error("give --text, --teacher or both")
    if unknown := [m for m in a.arms.split(",") if m not in ARMS]:
        p.error(f"--arms: {unknown[0]!r} is not among {', '.join(ARMS)}")
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
