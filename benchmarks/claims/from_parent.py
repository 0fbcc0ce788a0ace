"""What the claims about growth and upcycling share: one parent, several ways to go on from it, equal tokens."""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.claims.harness import POINTS, at, held_out_batches, sources, teacher
from jaxpt.cli.terminal import progress, table
from jaxpt.data import Loader, StageData
from jaxpt.models import Compute, ModelConfig, param_specs
from jaxpt.models.size import active_param_count, param_count
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.walk import loss
from jaxpt.sharding import batch_sharding
from jaxpt.sweeps.results import reached
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout, new_state
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
    return sum(bool(now > np.mean(past) + SPIKE * np.std(past)) for now, past in windows)


@functools.cache  # methods of one shape share a compilation
def _machine(spec: StepSpec) -> tuple[Any, Any, Any]:
    layout = make_layout(spec.model, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(spec.model))
    return layout, optimizer, make_step(spec, optimizer, layout)


def train(
    begin: Start, batches: Any, steps: int, rate: float, held: list[Any], a: argparse.Namespace
) -> dict[str, Any]:
    """Trains from `begin`; returns held-out losses at `POINTS`, every training loss, spikes and balance metrics.

    The metrics are means over the last tenth of the steps.
    """
    config = begin.config
    objective = NextToken(balance=a.balance, router_z=a.router_z)
    spec = StepSpec(config, objective, begin.compute, a.batch, a.length, 1, begin.freeze, 1)
    layout, optimizer, step = _machine(spec)
    params = jax.tree.map(jax.device_put, begin.params, layout.params)
    state = new_state(layout, optimizer, params)
    schedule = resolve(Cosine(warmup="5%"), steps, a.batch * a.length)
    stops = {round(p * steps) for p in POINTS}
    measured = lambda: loss(InMemory(config, state.params), held, begin.compute)  # noqa: E731
    curve, seen = [(0, measured())], []
    with progress(steps, "training", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            data = place(batches(i), batch_sharding(layout.mesh), a.batch)
            state, metrics = step(state, data, StepArguments(np.float32(learning_rate(schedule, i, rate))))
            seen.append({k: float(v) for k, v in metrics.items() if k == "train/loss" or k.startswith("moe/")})
            bar.update()
            if i + 1 in stops:
                curve.append(((i + 1) * a.batch * a.length, measured()))
    losses, end = [m["train/loss"] for m in seen], seen[-max(1, steps // 10) :]
    means = {k: float(np.mean([m[k] for m in end])) for k in end[0] if k != "train/loss"}
    return {"curve": curve, "losses": losses, "spikes": spikes(losses), "metrics": means}


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
    p.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of what starts from the parent")
    p.add_argument("--teacher_rate", type=float, default=3e-3, help="of the parent and of what starts at random")
    for name, value in {"held_out": 0.1, "balance": 1e-2, "router_z": 1e-3}.items():
        p.add_argument(f"--{name}", type=float, default=value)
    a = p.parse_args()
    for option in ("methods", "baselines"):
        chosen = getattr(a, option).split(",")
        if unknown := [m for m in chosen if m not in methods]:
            p.error(f"--{option}: {unknown[0]!r} is not among {', '.join(methods)}")
        setattr(a, option, chosen)
    if min(a.student_tokens, a.teacher_tokens) < a.batch * a.length:
        p.error(f"--student_tokens and --teacher_tokens must fill a step, {a.batch * a.length} tokens")
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
        f"parent: {param_count(bundle.config):,} parameters, held-out loss {gap['start']:.3f} > {gap['end']:.4f} nats"
    )
    file = a.folder / f"{name}.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    chosen: list[dict[str, Any]] = []
    for method, seed in itertools.product(a.methods, range(max(a.seeds, a.baseline_seeds))):
        if seed >= (a.baseline_seeds if method in a.baselines else a.seeds):
            continue
        rate = a.teacher_rate if method.startswith("random") else a.rate
        key = f"{method} lr={rate} seed={seed} tokens={steps * per_step}"
        if key not in runs:
            print(f"{key}: run {len(chosen) + 1}")
            begun, cpu = time.monotonic(), time.process_time()
            parts = begin(bundle.config, jax.tree.map(np.asarray, bundle.params()), method, seed)
            offset = first + seed * steps  # a seed is another part of the data, the same for every method
            runs[key] = train(parts, lambda i, o=offset: loader.batch(o + i), steps, rate, held, a)
            runs[key] |= {
                "method": method, "seed": seed, "rate": rate, "exact": parts.exact,
                "seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - cpu,
                "parameters": param_count(parts.config), "active": active_param_count(parts.config),
            }  # fmt: skip
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(runs))
            partial.rename(file)
        chosen.append(runs[key])
    print(report(chosen, gap, a.folder / f"{name}.png", repeat))
    return 0


def report(runs: Sequence[dict[str, Any]], gap: dict[str, float], picture: Path, repeat: int) -> str:
    """Returns the table, one row per method with means over its seeds, and notes; draws the curves."""
    by: dict[str, list[dict[str, Any]]] = {}
    for r in runs:
        by.setdefault(r["method"], []).append(r)
    base, mine = next(iter(by.items()))
    ends = {r["seed"]: r["curve"][-1][1] for r in mine}
    rows = []
    for method, mine in by.items():
        r = mine[0]
        losses = [float(np.mean([at(m["curve"], share) for m in mine])) for share in (0.0, 0.1, 0.3, 1.0)]
        pairs = [m["curve"][-1][1] - ends[m["seed"]] for m in mine if m["seed"] in ends]
        tokens = float(np.mean([reached(m["curve"], ends.get(m["seed"], float("nan"))) for m in mine]))
        balance = [r["metrics"].get(f"moe/{k}", "") for k in ("max_violation", "dead_experts", "entropy")]
        row = [method, r["rate"], len(mine), r["parameters"], r["active"], "yes" if r["exact"] else "no", *losses]
        row += [", ".join(f"{p:+.4f}" for p in pairs), tokens, sum(m["spikes"] for m in mine), *balance]
        rows.append([*row, sum(m["cpu_seconds"] for m in mine)])
    head = ["method", "lr", "seeds", "parameters", "active", "exact", "loss at 0", "10 %", "30 %", "100 %"]
    head += [f"end against {base}, by seed", f"tokens to {base}'s end", "spikes", "violation", "dead", "entropy"]
    _figure(by, picture)
    notes = [f"the parent's gap to random initialisation is {gap['start'] - gap['end']:.2f} nats"]
    if gap["start"] - gap["end"] < 1:
        notes.append("the gap is below 1 nat: no order is claimed")
    for r in runs:
        if r["exact"] and abs(r["curve"][0][1] - gap["end"]) > 1e-3:
            notes.append(f"{r['method']} claims the parent's function but starts at {r['curve'][0][1]:.4f}")
    notes.append(
        f"the training rows are read up to {repeat} time(s); a spike: {SPIKE:g} deviations above the last 50 losses"
    )
    return "\n".join([table([*head, "CPU s"], rows), *notes, str(picture)])


def _figure(by: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Held-out loss of every run, and beside it the mean difference to the first method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    base = {r["seed"]: np.array([l for _, l in r["curve"]]) for r in next(iter(by.values()))}
    for i, (method, mine) in enumerate(by.items()):
        style = {"color": f"C{i % 10}", "ls": "-" if i < 10 else "--", "lw": 1.3}
        tokens = np.array([t for t, _ in mine[0]["curve"]]) / 1e3
        for j, r in enumerate(mine):
            axes[0].plot(tokens, [l for _, l in r["curve"]], label=None if j else method, **style)
        pairs = [np.array([l for _, l in r["curve"]]) - base[r["seed"]] for r in mine if r["seed"] in base]
        if pairs:
            axes[1].plot(tokens, np.mean(pairs, axis=0), **style)
    ends = [r["curve"][-1][1] for mine in by.values() for r in mine]
    axes[0].set(ylabel="held-out loss, nats per token", ylim=(min(ends) - 0.05, max(ends) + 0.6))
    axes[1].set(ylabel=f"difference to {next(iter(by))}, nats", ylim=(-0.3, 0.5))
    for ax in axes:
        ax.set_xlabel("tokens after the change, thousands")
        ax.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=100)
    plt.close(figure)
