"""Is a student whose masks were learned better than one cut by scores? Equal training tokens, and equal tokens in all.

A teacher is trained on real text (once, kept in --folder). `shear` trains masks beside the teacher's weights for
--mask_tokens, cuts, and trains what is left; the others start from the teacher as it is. Every method trains on
--student_tokens ("training"), and those without masks also on as many more as the masks took ("total"), on the same
batches in the same order. Other options are those of `benchmarks.claims.shrink`.

python -m benchmarks.claims.shear --text='english/*.jsonl.gz' --folder=runs/shear --mask_tokens=150000
python -m benchmarks.claims.shear --teacher=MODEL --text=… --folder=… --target=… --gate=relu
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.claims import shrink
from benchmarks.claims.harness import at, held_out_batches, sources, teacher, train
from jaxpt.api import load
from jaxpt.cli.terminal import progress, table
from jaxpt.data import Loader, StageData
from jaxpt.models import Compute, ModelConfig, flatten, param_specs
from jaxpt.models.params import Params
from jaxpt.models.size import flops_per_token, param_count
from jaxpt.objectives.objective import Progress
from jaxpt.objectives.shear import MaskTraining
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.reshape.apply import apply
from jaxpt.reshape.gates.hard_concrete import HardConcrete
from jaxpt.reshape.gates.relu import Relu
from jaxpt.reshape.masks import masked_loss, shear
from jaxpt.reshape.sequence import rewrites_of
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices, chain, gather
from jaxpt.reshape.target import Target
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import step_arguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

GATES = {"hard_concrete": HardConcrete(), "relu": Relu()}
METHODS = ("shear", "subclone", "compensated", "random")
ARMS = ("training", "total")  # equal training tokens, or equal tokens mask training included


def main() -> int:
    """Runs everything that is not in the folder's results yet, then writes table, figure and results.json."""
    p = shrink.options(__doc__ or "", METHODS)
    p.add_argument("--mask_tokens", type=int, default=200_000, help="on which masks are learned")
    p.add_argument("--mask_rate", type=float, default=1e-3, help="of the weights meanwhile")
    p.add_argument("--gate_rate", type=float, default=1.0, help="of the gates; ReLU gates need less")
    p.add_argument("--gate", choices=list(GATES), default="hard_concrete")
    a = shrink.checked(p, METHODS)
    a.folder.mkdir(parents=True, exist_ok=True)
    parent = load(a.teacher) if a.teacher else None
    packed, held_source, tokenizer = sources(a, parent)
    per_step = a.batch * a.length
    first = a.calibration if parent else a.teacher_tokens // per_step  # steps before the others' data
    masks, steps = a.mask_tokens // per_step, a.student_tokens // per_step
    total = first + (masks + steps) * max(a.seeds, a.random_seeds)
    repeat = -(-total * a.batch // packed.rows)
    loader = Loader({"text": packed}, [StageData(0, total, a.batch, a.length, {"text": 1.0})], repeat={"text": repeat})
    held = held_out_batches(held_source, a.batch)
    source, gap = teacher(a, loader, first, held, tokenizer, parent)
    print(f"teacher: {param_count(source.config):,} parameters, held-out loss {gap['end']:.3f} nats")
    rows = [loader.batch(i) for i in range(min(a.calibration, first))]
    setting = ReshapeSetting(Target(**a.lengths), rows, {"text": packed.fingerprint}, log=lambda line: None)
    file = a.folder / "shear.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kind = f"tokens={steps * per_step}+{masks * per_step} target={a.target} gate={a.gate}"
    kind += f" gate_rate={a.gate_rate}" if a.gate_rate != 1.0 else ""
    for method in a.methods.split(","):
        for seed in range(a.random_seeds if method == "random" else a.seeds):
            for arm in ARMS[:1] if method == "shear" else ARMS:
                key = f"{method} {arm} seed={seed} {kind}"
                if key not in runs:
                    print(key)
                    data = lambda i, o=first + seed * (masks + steps): loader.batch(o + i)  # noqa: E731
                    runs[key] = student(source, setting, data, (method, arm, seed), held, a)
                    partial = file.with_suffix(".partial")
                    partial.write_text(json.dumps(runs, indent=1))
                    partial.rename(file)
    print(report([r for k, r in runs.items() if k.endswith(kind)], a.folder, gap["end"]))
    print(f"the training rows are read up to {repeat} time(s)")
    return 0


def student(
    source: ModelSlices, setting: ReshapeSetting, data: Any, which: tuple[str, str, int], held: list[Any], a: Any
) -> dict[str, Any]:
    """Makes the student `which` (method, arm, seed) and trains it; returns what is kept of the run.

    `data(i)` is the batch of step i; masks take the first ones, and students what follows, so that in the arm of equal
    training tokens all students see the same batches.
    """
    (method, arm, seed), begun, per_step = which, time.process_time(), a.batch * a.length
    masks, steps = a.mask_tokens // per_step, a.student_tokens // per_step
    facts: dict[str, Any] = {}
    if method == "shear":
        config, params, facts = sheared(source, data, masks, held, a)
    else:
        made = rewrites_of(source, [shrink.METHODS[method]], dataclasses.replace(setting, seed=seed))
        small = chain(source, made)
        config, params = small.config, gather(small)
        facts = {"tokens": made[-1].entry["tokens"], "flops": made[-1].entry["flops"]}
    offset, count = (masks, steps) if arm == "training" else (0, masks + steps)
    _, curve = train(config, params, lambda i: data(offset + i), count, float(a.rates.split(",")[0]), held, a)
    run = {"method": method, "arm": arm, "seed": seed, "curve": curve, "cpu_seconds": time.process_time() - begun}
    return run | {"parameters": param_count(config), **facts}


def sheared(
    source: ModelSlices, data: Any, steps: int, held: list[Any], a: Any
) -> tuple[ModelConfig, Params, dict[str, Any]]:
    """Trains masks beside the teacher's weights and cuts; returns the student, and losses, tokens and FLOPs."""
    config, own = source.config, AdamW(learning_rate=a.gate_rate, weight_decay=0.0)
    objective = MaskTraining(gate=GATES[a.gate], target=Target(**a.lengths), gates=own)
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(weight_decay=0.0), param_specs(config))
    step = make_step(StepSpec(config, objective, Compute(), a.batch, a.length, 1, (), 1), optimizer, layout)
    extra, _ = begin({}, make_extra(objective, config), layout, 0, fresh=False)
    start = jax.tree.map(jax.device_put, jax.tree.map(np.asarray, gather(source)), layout.params)
    state = new_state(layout, optimizer, start)._replace(extra=extra)
    schedule, seen = resolve(Cosine(warmup="10%", end=0.1), steps, a.batch * a.length), []
    with progress(steps, "masks", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            placed = place(data(i), batch_sharding(layout.mesh), a.batch)
            rate = learning_rate(schedule, i, a.mask_rate)
            given = step_arguments(objective, Progress(i, steps, a.batch * a.length), rate, a.mask_rate, step=i)
            state, metrics = step(state, placed, given)
            seen.append({k: float(v) for k, v in metrics.items() if k.startswith(("train/loss", "train/sparsity"))})
            bar.update()
    values = {path: np.asarray(v) for path, v in flatten(state.extra["values"]).items()}
    params = jax.tree.map(np.asarray, state.params)
    final, _ = objective.masks(config, values)
    losses = {
        "soft": masked_loss(config, params, objective.still(values), held),
        "final": masked_loss(config, params, final, held),
    }
    small, cut = config, params
    for rewrite in shear(config, final):
        small, cut = rewrite.target, apply(rewrite, cut)
    tokens = steps * a.batch * a.length
    return small, cut, {"masks": seen, **losses, "tokens": tokens, "flops": tokens * flops_per_token(config, a.length)}


def report(runs: list[dict[str, Any]], folder: Path, level: float) -> str:
    """Returns the table, means over seeds, and what it says about the claim; draws the figure."""
    rows, ends, starts = [], {}, {}
    for method in METHODS:
        for arm in ARMS:
            mine = [r for r in runs if (r["method"], r["arm"]) == (method, arm)]
            if not mine:
                continue
            losses = [float(np.mean([at(r["curve"], share) for r in mine])) for share in (0.0, 0.1, 0.3, 1.0)]
            starts[method], ends[method, arm] = losses[0], losses[-1]
            rows.append([method, arm, len(mine), mine[0]["parameters"], *losses, mine[0]["tokens"], mine[0]["flops"]])
    head = ["method", "equal", "seeds", "parameters", "loss at 0", "10 %", "30 %", "100 %"]
    lines = [table([*head, "tokens to make it", "FLOPs to make it"], rows), f"the teacher: {level:.3f} nats"]
    for r in (r for r in runs if r["method"] == "shear"):
        lines.append(f"seed {r['seed']}: loss {r['soft']:.3f} soft, {r['final']:.3f} final, {r['curve'][0][1]:.3f} cut")
    if "shear" in starts:
        mine = ends["shear", "training"]
        for method in [m for m in METHODS[1:] if m in starts]:
            away = [f"{ends[method, arm] - mine:+.3f} at equal {arm} tokens" for arm in ARMS]
            lines.append(
                f"{method} against shear: {starts[method] - starts['shear']:+.3f} at the start, {', '.join(away)}"
            )
    _figure(runs, folder)
    return "\n".join([*lines, str(folder / "shear.png")])


def _figure(runs: list[dict[str, Any]], folder: Path) -> None:
    """Held-out loss against training tokens, and against all tokens, masks included."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for i, method in enumerate(METHODS):
        for r in (r for r in runs if r["method"] == method):
            tokens, losses = (np.array(v) for v in zip(*r["curve"]))
            before = r["tokens"] if method == "shear" else 0
            own = {"color": f"C{i}", "lw": 1.4, "label": method if r["seed"] == 0 else None}
            if r["arm"] == "training":
                axes[0].plot(tokens / 1e3, losses, **own)
            if r["arm"] == "total" or method == "shear":
                axes[1].plot((tokens + before) / 1e3, losses, **own)
    for ax, what in zip(axes, ("training tokens after the cut", "tokens in all, mask training included")):
        ax.set(xlabel=f"{what}, thousands")
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="held-out loss, nats per token")
    axes[0].legend(frameon=False)
    figure.savefig(folder / "shear.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
