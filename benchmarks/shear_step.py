"""What masks cost: a step of mask training against the same step without masks.

    python -m benchmarks.shear_step [--tokens 2048] [--rows 8] [--embed 256] [--layers 8] [--mlp 1024] [--rounds 9]

Prints seconds (medians of interleaved steps and the median of their ratios; also of CPU time, which other
work on the machine disturbs less), the compiler's memory of both programs and its temporaries, and by how
many layers of parameters the temporaries grow. Targets, from 2,048 tokens per device on: at most 1.25 times
the time and 1.1 times the memory, and temporaries that grow by less than two layers.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks.train_step import memory
from jaxpt.cli.terminal import table
from jaxpt.models.compute import REMAT_POLICIES, Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.specs import block_specs, param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import Objective, Progress
from jaxpt.objectives.shear import MaskTraining
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.reshape.gates.hard_concrete import HardConcrete
from jaxpt.reshape.gates.relu import Relu
from jaxpt.reshape.target import Target
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import step_arguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

TIME, MEMORY, LAYERS = 1.25, 1.1, 2.0
GATES = {"hard_concrete": HardConcrete(), "relu": Relu()}


def model(a: argparse.Namespace) -> ModelConfig:
    """A Llama with half as many kv heads as heads."""
    heads = a.embed // 32
    return ModelConfig(a.vocab, a.embed, heads, heads // 2, 32, a.mlp, uniform_layers(a.layers), tie_embeddings=True)


def target(config: ModelConfig) -> Target:
    """Half of every length."""
    return Target(len(config.layers) // 2, config.embed // 2, kv_heads=config.kv_heads // 2, mlp=config.mlp // 2)


def batch(a: argparse.Namespace) -> dict[str, np.ndarray]:
    """Random rows."""
    rng, s = np.random.default_rng(0), a.tokens // a.rows
    tokens = rng.integers(0, a.vocab, (a.rows, s + 1)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones((a.rows, s), np.int32),
        "positions": np.tile(np.arange(s, dtype=np.int32), (a.rows, 1)),
        "loss_weights": np.ones((a.rows, s), np.float32),
        "source_id": np.zeros(a.rows, np.int32),
    }


class Side:
    """A step with its state, taken when asked."""

    def __init__(self, objective: Objective, config: ModelConfig, a: argparse.Namespace):
        layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
        optimizer = make_optimizer(AdamW(), param_specs(config))
        compute = Compute(a.dtype, remat=a.remat)
        spec = StepSpec(config, objective, compute, a.rows, a.tokens // a.rows, 1, ("*",) if a.frozen else (), 1)
        if a.frozen and not isinstance(objective, MaskTraining):
            spec = StepSpec(config, objective, compute, a.rows, a.tokens // a.rows, 1, (), 1)
        extra, _ = begin({}, make_extra(objective, config), layout, 0, fresh=False)
        self.state = new_state(layout, optimizer, init_params(config, 0, layout.params))._replace(extra=extra)
        self.given = step_arguments(objective, Progress(50, 100, a.tokens), 1e-4, 1e-4)
        self.data = place(batch(a), batch_sharding(layout.mesh), a.rows)
        self.mesh = layout.mesh
        self.seconds: list[tuple[float, float]] = []
        with jax.set_mesh(self.mesh):
            self.step = make_step(spec, optimizer, layout).lower(self.state, self.data, self.given).compile()

    def take(self) -> tuple[float, float]:
        """Takes a step; returns its seconds, and those of this process's CPU time."""
        begun = np.array([time.perf_counter(), time.process_time()])
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.step(self.state, self.data, self.given)
            assert np.isfinite(float(metrics["train/loss"]))
        wall, cpu = np.array([time.perf_counter(), time.process_time()]) - begun
        return float(wall), float(cpu)


def main() -> int:
    """Prints the table; exit status 1 above a limit."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"tokens": 2048, "rows": 8, "embed": 256, "layers": 8, "mlp": 1024, "vocab": 2048, "rounds": 9}
    for name, value in sizes.items():
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--gate", choices=list(GATES), default="hard_concrete")
    p.add_argument("--remat", choices=list(REMAT_POLICIES), default="full")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    p.add_argument("--frozen", action="store_true", help="the masked step trains its gates alone")
    a = p.parse_args()
    config = model(a)
    sides = [Side(NextToken(), config, a), Side(MaskTraining(gate=GATES[a.gate], target=target(config)), config, a)]
    for side in sides:
        side.take()
    for _ in range(a.rounds):
        for side in sides:
            side.seconds.append(side.take())
    pairs = list(zip(sides[0].seconds, sides[1].seconds))
    ratio, cpu = (statistics.median(m[i] / n[i] for n, m in pairs) for i in (0, 1))
    whole = [memory(side.step) for side in sides]
    temporary = [side.step.memory_analysis().temp_size_in_bytes / 2**20 for side in sides]
    layer = sum(4 * spec.size for spec in block_specs(config, "dense").values()) / 2**20
    grown = (temporary[1] - temporary[0]) / layer
    rows = [
        [name, *np.median(side.seconds, axis=0).tolist(), w, t]
        for name, side, w, t in zip(("without masks", f"masks, {a.gate}"), sides, whole, temporary)
    ]
    print(table(["step", "seconds", "CPU seconds", "memory MiB", "temporaries MiB"], rows))
    print(f"ratios: time {ratio:.3f} (at most {TIME}), CPU time {cpu:.3f}")
    print(f"ratios: memory {whole[1] / whole[0]:.3f} (at most {MEMORY})")
    print(f"temporaries grow by {grown:.2f} layers of {layer:.2f} MiB (less than {LAYERS:g})")
    return int(ratio > TIME or whole[1] / whole[0] > MEMORY or grown >= LAYERS)


if __name__ == "__main__":
    raise SystemExit(main())
