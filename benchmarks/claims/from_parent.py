"""What the claims about growth and upcycling share: one parent, several ways to go on from it, equal tokens."""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.claims.shrink import POINTS, at, held_out_batches, reached, sources, teacher
from jaxpt.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig, ShardingConfig
from jaxpt.data import Loader, StageData
from jaxpt.models import Compute, ModelConfig, param_specs
from jaxpt.optim.optimizers import make_optimizer
from jaxpt.optim.schedules import learning_rate, resolve
from jaxpt.reshape.calibrate import loss
from jaxpt.reshape.stream import InMemory
from jaxpt.sharding import batch_sharding
from jaxpt.terminal import progress, table
from jaxpt.training.batches import place
from jaxpt.training.state import make_layout, new_opt_state, state_shardings
from jaxpt.training.step import StepSpec, make_step

SPIKE = 4.0  # deviations of the last 50 losses above their mean


@dataclass(frozen=True)
class Start:
    """Where a method begins: model, how it is computed, freeze rules, and whether it claims the parent's function."""

    config: ModelConfig
    params: Any
    compute: Compute
    freeze: tuple[str, ...]
    exact: bool


def spikes(losses: Sequence[float]) -> int:
    """Counts steps whose loss stands `SPIKE` deviations above the 50 before it, from step 50 on."""
    windows = ((losses[i], losses[i - 50 : i]) for i in range(50, len(losses)))
    return sum(now > np.mean(past) + SPIKE * np.std(past) for now, past in windows)


def train(begin: Start, batches: Any, steps: int, held: list[Any], a: argparse.Namespace) -> dict[str, Any]:
    """Trains from `begin`; returns held-out losses at `POINTS`, every training loss, spikes and the last metrics."""
    config = begin.config
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(), param_specs(config))
    objective = ObjectiveConfig(balance=a.balance, router_z=a.router_z)
    spec = StepSpec(config, objective, begin.compute, a.batch, a.length, 1, begin.freeze, 1.0, 1)
    step = make_step(spec, optimizer, layout)
    params = jax.tree.map(jax.device_put, begin.params, layout.params)
    state = {
        "params": params,
        "opt_state": new_opt_state(optimizer, params, state_shardings(layout, optimizer, params)),
    }
    schedule = resolve(ScheduleConfig(warmup="5%"), steps, a.batch * a.length)
    stops = {round(p * steps) for p in POINTS}
    measured = lambda: loss(InMemory(config, state["params"]), held, begin.compute)  # noqa: E731
    curve, losses, last = [(0, measured())], [], {}
    with progress(steps, "training", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            data = place(batches(i), batch_sharding(layout.mesh), a.batch)
            state, metrics = step(state, data, np.float32(learning_rate(schedule, i, a.rate)))
            losses.append(float(metrics["train/loss"]))
            last = {k: float(v) for k, v in metrics.items() if k.startswith("moe/")}
            bar.update()
            if i + 1 in stops:
                curve.append(((i + 1) * a.batch * a.length, measured()))
    return {"curve": curve, "losses": losses, "spikes": spikes(losses), "metrics": last}


def arguments(methods: Sequence[str], baselines: Sequence[str], description: str) -> argparse.Namespace:
    """The command line that both claims share; the defaults are the run of about twenty minutes on two cores."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", required=True, help="glob of documents (jsonl, jsonl.gz, jsonl.zst, parquet)")
    p.add_argument("--folder", type=Path, required=True, help="tokenizer, data, parent and results are kept here")
    p.add_argument("--methods", default=",".join(methods))
    p.add_argument("--baselines", default=",".join(baselines), help="methods that get --baseline_seeds")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--baseline_seeds", type=int, default=2)
    p.add_argument("--student_tokens", type=int, default=400_000)
    p.add_argument("--teacher_tokens", type=int, default=1_000_000, help="of the parent")
    whole = {"batch": 16, "length": 128, "vocab": 1024, "embed": 64, "heads": 4, "kv_heads": 2, "mlp": 176, "layers": 4}
    for name, value in whole.items():
        p.add_argument(f"--{name}", type=int, default=value)
    parts = {"rate": 1e-3, "teacher_rate": 3e-3, "held_out": 0.02, "balance": 1e-2, "router_z": 1e-3}
    for name, value in parts.items():
        p.add_argument(f"--{name}", type=float, default=value)
    a = p.parse_args()
    for option in ("methods", "baselines"):
        chosen = getattr(a, option).split(",")
        if unknown := [m for m in chosen if m not in methods]:
            p.error(f"--{option}: {unknown[0]} is not among {', '.join(methods)}")
        setattr(a, option, chosen)
    return a


def run(a: argparse.Namespace, begin: Callable[[ModelConfig, Any, str, int], Start], name: str) -> int:
    """Trains every method that is not in the folder's results yet, then prints the table and draws the curves."""
    a.folder.mkdir(parents=True, exist_ok=True)
    packed, held_source, tokenizer = sources(a)
    per_step = a.batch * a.length
    first, steps = a.teacher_tokens // per_step, a.student_tokens // per_step
    total = first + steps * max(a.seeds, a.baseline_seeds)
    repeat = -(-total * a.batch // packed.rows)
    loader = Loader({"text": packed}, [StageData(0, total, a.batch, a.length, {"text": 1.0})], repeat={"text": repeat})
    held = held_out_batches(held_source, a.batch)
    bundle, gap = teacher(a, loader, first, held, tokenizer)
    print(
        f"parent: {bundle.config.param_count():,} parameters, held-out loss {gap['start']:.3f} > {gap['end']:.4f} nats"
    )
    file = a.folder / f"{name}.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    chosen: list[dict[str, Any]] = []
    for method, seed in itertools.product(a.methods, range(max(a.seeds, a.baseline_seeds))):
        if seed >= (a.baseline_seeds if method in a.baselines else a.seeds):
            continue
        key = f"{method} lr={a.rate} seed={seed} tokens={steps * per_step}"
        if key not in runs:
            begun, cpu = time.monotonic(), time.process_time()
            parts = begin(bundle.config, jax.tree.map(np.asarray, bundle.params()), method, seed)
            offset = first + seed * steps  # a seed is another part of the data, the same for every method
            runs[key] = train(parts, lambda i, o=offset: loader.batch(o + i), steps, held, a)
            runs[key] |= {
                "method": method, "seed": seed, "exact": parts.exact,
                "seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - cpu,
                "parameters": parts.config.param_count(), "active": parts.config.active_param_count(),
            }  # fmt: skip
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(runs))
            partial.rename(file)
        chosen.append(runs[key])
    print(report(chosen, gap, a.folder / f"{name}.png", repeat))
    return 0


def report(runs: Sequence[dict[str, Any]], gap: dict[str, float], picture: Path, repeat: int) -> str:
    """Returns the table of all runs and what has to be said beside it; draws the curves."""
    level = float(np.mean([r["curve"][-1][1] for r in runs if r["seed"] == 0 and r["method"] == runs[0]["method"]]))
    rows = []
    for r in runs:
        losses = [at(r["curve"], share) for share in (0.0, 0.1, 0.3, 1.0)]
        tokens = reached(r["curve"], level)
        balance = [r["metrics"].get(k, "") for k in ("moe/max_violation", "moe/dead_experts")]
        row = [r["method"], r["seed"], r["parameters"], r["active"], "yes" if r["exact"] else "no", *losses]
        rows.append([*row, tokens, r["spikes"], *balance, r["seconds"], r["cpu_seconds"]])
    head = ["method", "seed", "parameters", "active", "exact", "loss at 0", "10 %", "30 %", "100 %"]
    head += [f"tokens to {runs[0]['method']}'s end", "spikes", "violation", "dead experts", "seconds", "CPU s"]
    _figure(runs, picture)
    said = [f"the parent's gap to random initialisation is {gap['start'] - gap['end']:.2f} nats"]
    if gap["start"] - gap["end"] < 1:
        said.append("the gap is below 1 nat: no order is claimed")
    for r in runs:
        if r["exact"] and abs(r["curve"][0][1] - gap["end"]) > 1e-3:
            said.append(f"{r['method']} claims the parent's function but starts at {r['curve'][0][1]:.4f}")
    said.append(
        f"the training rows are read up to {repeat} time(s); a spike: {SPIKE:g} deviations above the last 50 losses"
    )
    return "\n".join([table(head, rows), *said, str(picture)])


def _figure(runs: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    names = list(dict.fromkeys(r["method"] for r in runs))
    for r in runs:
        tokens, losses = zip(*r["curve"])
        i = names.index(r["method"])
        style = {"color": f"C{i % 10}", "ls": "-" if i < 10 else "--", "lw": 1.4}
        ax.plot(np.array(tokens) / 1e3, losses, label=r["method"] if r["seed"] == 0 else None, **style)
    ends = [r["curve"][-1][1] for r in runs]
    ax.set(xlabel="tokens after the change, thousands", ylabel="held-out loss, nats per token")
    ax.set_ylim(min(ends) - 0.1, max(ends) + 1.0)
    ax.legend(fontsize=8, ncols=2)
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
