"""Is an upcycled mixture better than its dense parent trained on? Equal tokens, loss curves, spikes, router dtypes.

A dense teacher is trained on real text (once, kept in --folder); each method goes on from it on the same batches.

python -m benchmarks.claims.upcycle --text='english/*.jsonl.gz' --folder=runs/upcycle
python -m benchmarks.claims.grow --text='english/*.jsonl.gz' --folder=runs/grow
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.claims.shrink import POINTS, sources, teacher
from jaxpt.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig, ShardingConfig
from jaxpt.data import Loader, StageData
from jaxpt.models import Compute, ModelConfig, init_params, param_specs
from jaxpt.optim.optimizers import make_optimizer
from jaxpt.optim.schedules import learning_rate, resolve
from jaxpt.reshape.apply import apply
from jaxpt.reshape.calibrate import loss
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.upcycle import Upcycling, upcycle
from jaxpt.sharding import batch_sharding
from jaxpt.terminal import progress, table
from jaxpt.training.batches import place
from jaxpt.training.state import make_layout, new_opt_state, state_shardings
from jaxpt.training.step import StepSpec, make_step

Start = tuple[ModelConfig, Any, Compute, tuple[str, ...]]  # config, parameters, how it is computed, freeze rules
SPIKE = 4.0  # deviations of the last 50 losses above their mean


def start(config: ModelConfig, params: Any, method: str, seed: int) -> Start:
    """Where a method's run begins."""
    naive = Upcycling(8, 2, permute=False, keep=1.0)
    fine = Upcycling(16, 4, granularity=2, keep=1.0)
    options = {
        "naive": naive,
        "fine": fine,
        **{f"redrawn-{k}": dataclasses.replace(naive, permute=True, keep=k) for k in (0.5, 0.7, 0.9, 0.995)},
        "bfloat16-router": naive,
        "random": naive,
    }
    if method == "dense":
        return config, params, Compute(), ()
    plan = upcycle(config, options[method], seed=seed)
    made = init_params(plan.target, seed) if method == "random" else apply(plan, params)
    return plan.target, made, Compute(router_dtype="bfloat16" if method == "bfloat16-router" else "float32"), ()


METHODS = "dense,naive,fine,redrawn-0.5,redrawn-0.7,redrawn-0.9,redrawn-0.995,random,bfloat16-router"


def spikes(losses: list[float]) -> int:
    """Counts steps whose loss stands `SPIKE` deviations above the 50 before it, from step 100 on."""
    windows = ((losses[i], losses[i - 50 : i]) for i in range(100, len(losses)))
    return sum(now > np.mean(past) + SPIKE * np.std(past) for now, past in windows)


def train(begin: Start, batches: Any, steps: int, held: list[Any], a: argparse.Namespace) -> dict[str, Any]:
    """Trains from `begin`; returns held-out losses at `POINTS`, every training loss, spikes and the last metrics."""
    config, params, compute, freeze = begin
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(), param_specs(config))
    objective = ObjectiveConfig(balance=a.balance, router_z=a.router_z)
    spec = StepSpec(config, objective, compute, a.batch, a.length, 1, freeze, 1.0, 1)
    step = make_step(spec, optimizer, layout)
    params = jax.tree.map(jax.device_put, params, layout.params)
    state = {
        "params": params,
        "opt_state": new_opt_state(optimizer, params, state_shardings(layout, optimizer, params)),
    }
    schedule = resolve(ScheduleConfig(warmup="5%"), steps, a.batch * a.length)
    at = {round(p * steps) for p in POINTS}
    curve, losses, last = [(0, loss(InMemory(config, state["params"]), held))], [], {}
    with progress(steps, "training", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            data = place(batches(i), batch_sharding(layout.mesh), a.batch)
            state, metrics = step(state, data, np.float32(learning_rate(schedule, i, a.rate)))
            losses.append(float(metrics["train/loss"]))
            last = {k: float(v) for k, v in metrics.items() if k.startswith("moe/")}
            bar.update()
            if i + 1 in at:
                curve.append(((i + 1) * a.batch * a.length, loss(InMemory(config, state["params"]), held)))
    return {"curve": curve, "losses": losses, "spikes": spikes(losses), "metrics": last}


def arguments(methods: str, description: str) -> argparse.Namespace:
    """The command line that both claims share."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--text", required=True)
    p.add_argument("--folder", type=Path, required=True)
    p.add_argument("--methods", default=methods)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--baseline_seeds", type=int, default=2)
    p.add_argument("--student_tokens", type=int, default=400_000)
    p.add_argument("--teacher_tokens", type=int, default=800_000)
    whole = {"batch": 16, "length": 128, "vocab": 1024, "embed": 64, "heads": 4, "kv_heads": 2, "mlp": 176, "layers": 4}
    for name, value in whole.items():
        p.add_argument(f"--{name}", type=int, default=value)
    for name, value in {
        "rate": 1e-3,
        "teacher_rate": 3e-3,
        "held_out": 0.02,
        "balance": 1e-2,
        "router_z": 1e-3,
    }.items():
        p.add_argument(f"--{name}", type=float, default=value)
    return p.parse_args()


def run(a: argparse.Namespace, begin: Callable[[ModelConfig, Any, str, int], Start], baseline: str) -> int:
    """Trains every method that is not in the folder's results yet, then prints the table."""
    a.folder.mkdir(parents=True, exist_ok=True)
    packed, held_source, tokenizer = sources(a)
    per_step = a.batch * a.length
    first, steps = a.teacher_tokens // per_step, a.student_tokens // per_step
    total = first + steps * max(a.seeds, a.baseline_seeds)
    repeat = -(-total * a.batch // packed.rows)
    loader = Loader({"text": packed}, [StageData(0, total, a.batch, a.length, {"text": 1.0})], repeat={"text": repeat})
    rows = min(held_source.rows, 8 * a.batch)
    held = [held_source.read(range(i, i + a.batch)) for i in range(0, rows - a.batch + 1, a.batch)]
    bundle, gap = teacher(a, loader, first, held, tokenizer)
    print(f"parent: {bundle.config.param_count():,} parameters, held-out loss {gap['end']:.4f} nats")
    file = a.folder / "results.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    lines = []
    for method, seed in itertools.product(a.methods.split(","), range(max(a.seeds, a.baseline_seeds))):
        if seed >= (a.baseline_seeds if method == baseline else a.seeds):
            continue
        key = f"{method} lr={a.rate} seed={seed} tokens={steps * per_step}"
        if key not in runs:
            begun = time.monotonic()
            parts = begin(bundle.config, jax.tree.map(np.asarray, bundle.params()), method, seed)
            offset = first + seed * steps
            runs[key] = train(parts, lambda i, o=offset: loader.batch(o + i), steps, held, a)
            runs[key] |= {"seconds": time.monotonic() - begun, "active": parts[0].active_param_count()}
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(runs, indent=1))
            partial.rename(file)
        r = runs[key]
        dead = r["metrics"].get("moe/dead_experts", "")
        lines.append([method, seed, r["active"], r["curve"][0][1], r["curve"][-1][1], r["spikes"], dead, r["seconds"]])
    print(table(["method", "seed", "active", "step 0", "end", "spikes", "dead", "seconds"], lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(arguments(METHODS, __doc__.split("\n")[0]), start, "dense"))
