"""WSD against cosine at equal tokens: several decay lengths, end rates and peaks, one stable run for all decays.

A model is trained on real text from random parameters. Each cosine is a run of its own; the decays of WSD branch from
one stable run per peak and seed, so that all of them see the same batches in the same order. Beside them stand the
stable run undecayed, and means of its checkpoints weighted as each decay to 0 (WSM).

python -m benchmarks.claims.schedules --text='english/*.jsonl.gz' --folder=runs/schedules
python -m benchmarks.claims.schedules --text=… --folder=… --seeds=3 --tokens=20000000 --decays=0.025,0.05,0.1,0.2,0.4
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.claims.harness import held_out_batches, sources
from jaxpt.cli.terminal import progress, table
from jaxpt.data import Loader, StageData
from jaxpt.models import Compute, ModelConfig, init_params, param_specs, uniform_layers
from jaxpt.models.size import param_count
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.curve import Curve
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.schedule import Schedule, resolve
from jaxpt.optim.schedules.constant import Constant
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.optim.schedules.wsd import Wsd
from jaxpt.reshape.stream import InMemory, gather
from jaxpt.reshape.walk import loss
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.merging import Merged, decay_weights
from jaxpt.training.state import State, make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

POINTS = 12  # of a run, at which the held-out loss is taken
CHECKPOINTS = 5  # of the stable run that a mean is made of


class Machine:
    """A compiled step, and a run of it: from any state, over any steps, under any schedule."""

    def __init__(self, config: ModelConfig, loader: Loader, held: list[Any], a: argparse.Namespace):
        """Compiles nothing yet."""
        self.config, self.loader, self.held, self.a = config, loader, held, a
        self.layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
        self.optimizer = make_optimizer(AdamW(), param_specs(config))
        spec = StepSpec(config, NextToken(), Compute(), a.batch, a.length, 1, (), 1)
        self.step = make_step(spec, self.optimizer, self.layout)

    def first(self, seed: int) -> State:
        """A new state on the host."""
        params = jax.tree.map(jax.device_put, init_params(self.config, seed), self.layout.params)
        return jax.device_get(new_state(self.layout, self.optimizer, params))

    def run(
        self, state: State, first: int, stop: int, curve: Curve, peak: float, seed: int, keep: Iterable[int] = ()
    ) -> tuple[list[tuple[int, float]], Mapping[int, State]]:
        """Trains steps [first, stop) from a state on the host; returns losses, and states after the steps in `keep`."""
        state, a = jax.tree.map(jax.numpy.asarray, state), self.a
        points = {round(first + (stop - first) * i / POINTS) for i in range(1, POINTS + 1)}
        losses, kept, wanted = [], {}, set(keep)
        with jax.set_mesh(self.layout.mesh), progress(stop - first, "training", "step") as bar:
            for i in range(first, stop):
                data = place(self.loader.batch(seed * a.steps + i), batch_sharding(self.layout.mesh), a.batch)
                rate = np.float32(peak * curve.multiple(i))
                state, _ = self.step(state, data, StepArguments(rate))
                bar.update()
                if i + 1 in points:
                    losses.append(((i + 1) * a.batch * a.length, self.loss(state.params)))
                if i + 1 in wanted:
                    kept[i + 1] = jax.device_get(state)
        return losses, kept

    def loss(self, params: Any) -> float:
        """The held-out loss, nats per token."""
        return loss(InMemory(self.config, params), self.held)


def of_one(machine: Machine, peak: float, seed: int, a: argparse.Namespace) -> dict[str, Any]:
    """All runs of one peak and one seed: name to a curve of (tokens, held-out loss)."""
    size, out, start = a.batch * a.length, {}, machine.first(seed)
    resolved = lambda schedule: resolve(schedule, a.steps, size)  # noqa: E731

    def whole(schedule: Schedule) -> list[tuple[int, float]]:
        return machine.run(start, 0, a.steps, resolved(schedule), peak, seed)[0]

    for end in a.ends:
        out[f"cosine to {end:g}"] = whole(Cosine(warmup=a.warmup, end=end))
    begins = {share: a.steps - round(share * a.steps) for share in a.decays}
    merged = {share: np.linspace(begin, a.steps, CHECKPOINTS + 1).round().astype(int)[:-1].tolist()
              for share, begin in begins.items()}  # fmt: skip
    wanted = {*begins.values(), *itertools.chain(*merged.values())}
    stable = resolved(Constant(warmup=a.warmup))
    out["stable"], kept = machine.run(start, 0, a.steps, stable, peak, seed, wanted)
    for (share, begin), end in itertools.product(begins.items(), a.ends):
        curve = resolved(Wsd(warmup=a.warmup, decay=f"{a.steps - begin} steps", decay_shape=a.shape, end=end))
        losses, _ = machine.run(kept[begin], begin, a.steps, curve, peak, seed)
        out[f"WSD {share:.1%} to {end:g}"] = [point for point in out["stable"] if point[0] <= begin * size] + losses
    for share, steps in merged.items():
        models = [InMemory(machine.config, kept[step].params) for step in steps]
        mean = Merged(models, decay_weights(a.shape, 0.0, steps), [str(s) for s in steps], "float32")
        out[f"merged {share:.1%}"] = [(steps[-1] * size, machine.loss(gather(mean)))]
    return out


def main() -> int:
    """Trains what is not in the folder's results yet, prints the table, draws the curves."""
    a = arguments()
    a.folder.mkdir(parents=True, exist_ok=True)
    packed, held_source, tokenizer = sources(a)
    total = a.steps * a.seeds
    repeat = -(-total * a.batch // packed.rows)
    loader = Loader({"text": packed}, [StageData(0, total, a.batch, a.length, {"text": 1.0})], repeat={"text": repeat})
    config = ModelConfig(
        tokenizer.vocab_size, a.embed, a.heads, a.kv_heads, a.embed // a.heads, a.mlp, uniform_layers(a.layers),
        tie_embeddings=True, max_positions=a.length,
    )  # fmt: skip
    print(f"{param_count(config):,} parameters, {a.steps:,} steps, {a.steps * a.batch * a.length:,} tokens a run")
    machine = Machine(config, loader, held_out_batches(held_source, a.batch), a)
    file = a.folder / "schedules.json"
    runs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for peak, seed in itertools.product(a.rates, range(a.seeds)):
        key = f"{peak:g}/{seed}/{a.steps}/{a.shape}/{a.warmup}/{a.decays}/{a.ends}"
        if key not in runs:
            began = time.perf_counter()
            runs[key] = of_one(machine, peak, seed, a)
            file.write_text(json.dumps(runs))
            print(f"peak {peak:g}, seed {seed}: {time.perf_counter() - began:.0f} s")
    same = key.split("/", 2)[2]
    chosen = {
        peak: [v for k, v in runs.items() if k.startswith(f"{peak:g}/") and k.split("/", 2)[2] == same]
        for peak in a.rates
    }
    print(summary(chosen))
    draw(chosen, a.folder / "schedules.png")
    return 0


def summary(runs: Mapping[float, Sequence[Mapping[str, Any]]]) -> str:
    """A line per schedule: held-out loss at the end for each peak, mean over seeds and half their range."""
    names = list(dict.fromkeys(name for of in runs.values() for one in of for name in one))
    rows = []
    for name in names:
        row = [name]
        for of in runs.values():
            ends = [one[name][-1][1] for one in of]
            row.append(f"{np.mean(ends):.4f}" + (f" ± {np.ptp(ends) / 2:.4f}" if ends[1:] else ""))
        rows.append(row)
    return table(["held-out loss at the end", *(f"peak {peak:g}" for peak in runs)], rows)


def draw(runs: Mapping[float, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Held-out loss over tokens, a panel per peak: cosines dashed, WSD solid, means of checkpoints as crosses."""
    figure, row = plt.subplots(1, len(runs), figsize=(6.2 * len(runs), 4.6), layout="constrained", squeeze=False)
    ends = [one[name][-1][1] for of in runs.values() for one in of for name in one if not name.startswith("merged")]
    for axes, (peak, of) in zip(row[0], runs.items()):
        shares = list(dict.fromkeys(n.split()[1] for n in of[0] if n.startswith("WSD")))
        colors = dict(zip(shares, plt.get_cmap("viridis")(np.linspace(0.1, 0.85, len(shares)))))
        for name in of[0]:
            points = np.mean([one[name] for one in of], axis=0)
            if name.startswith("WSD"):
                low = name.endswith(" 0")
                axes.plot(*points.T, color=colors[name.split()[1]], lw=1.6, ls="-" if low else ":", label=name)
            elif name.startswith("merged"):
                axes.plot(*points.T, "x", color=colors[name.split()[1]], ms=8, label=name)
            else:
                color = "0.55" if name == "stable" else "#d62728" if name.endswith(" 0") else "#ff9896"
                axes.plot(*points.T, color=color, lw=1.6, ls="-" if name == "stable" else "--", label=name)
        axes.set(title=f"peak rate {peak:g}", xlabel="tokens", ylabel="held-out loss, nats per token")
        axes.set_ylim(min(ends) - 0.05, min(ends) + 1.2)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """The command line; the defaults are a run of about fifteen minutes on two cores."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", required=True, help="glob of documents (jsonl, jsonl.gz, jsonl.zst, parquet)")
    p.add_argument("--folder", type=Path, required=True, help="tokenizer, data and results are kept here")
    p.add_argument("--tokens", type=int, default=300_000, help="of each run")
    p.add_argument("--seeds", type=int, default=1, help="each with other parameters and other rows")
    p.add_argument("--rates", default="1.5e-3,3e-3", help="peak learning rates")
    p.add_argument("--decays", default="0.1,0.2,0.4", help="shares of the run that WSD decays over")
    p.add_argument("--ends", default="0,0.1", help="multiples of the peak at the end")
    p.add_argument("--shape", default="sqrt", help="of the decay: linear, sqrt or cosine")
    p.add_argument("--warmup", default="5%")
    whole = {"batch": 8, "length": 128, "vocab": 1024, "embed": 64, "heads": 4, "kv_heads": 2, "mlp": 176, "layers": 4}
    for name, value in whole.items():
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--held_out", type=float, default=0.1, help="share of the documents")
    a = p.parse_args()
    for option in ("rates", "decays", "ends"):
        setattr(a, option, [float(v) for v in getattr(a, option).split(",")])
    a.steps = a.tokens // (a.batch * a.length)
    if a.steps < 20 or not all(0 < share < 1 for share in a.decays):
        p.error("--tokens must fill 20 steps, and --decays lie between 0 and 1")
    return a


if __name__ == "__main__":
    raise SystemExit(main())
