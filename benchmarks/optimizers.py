"""Time and memory of a train step with each optimizer: `python -m benchmarks.optimizers [--mesh=fsdp=4,tensor=2]`.

The same model, batch and objective; steps of all optimizers are interleaved, so that whatever else the machine does
hits all. Prints median and quartiles of seconds, their ratio to AdamW's, the size of the optimizer's state and the
compiler's figure of the program's temporary memory per device.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks.train_step import B, S, model
from jaxpt.cli.terminal import table
from jaxpt.config.choice import find, names
from jaxpt.models.compute import Compute
from jaxpt.models.init import init_params
from jaxpt.models.specs import param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizer import Optimizer
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import Layout, make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

GIVEN = StepArguments(np.float32(1e-3))


class Subject:
    """A step with one optimizer, compiled, and its times."""

    def __init__(self, optimizer: Optimizer, layout: Layout, batch: dict[str, jax.Array]):
        config = model()
        built = make_optimizer(optimizer, param_specs(config))
        step = make_step(StepSpec(config, NextToken(), Compute(), B, S, 1, (), 1), built, layout)
        params = jax.device_put(init_params(config, 0), layout.params)
        self.state = new_state(layout, built, params)
        self.compiled = step.lower(self.state, batch, GIVEN).compile()
        self.mebibytes = built.state_bytes / 2**20
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes / 2**20
        self.batch, self.seconds = batch, []

    def step(self) -> None:
        """Takes a step and notes its time."""
        start = time.perf_counter()
        self.state, metrics = self.compiled(self.state, self.batch, GIVEN)
        jax.block_until_ready(metrics)
        self.seconds.append(time.perf_counter() - start)


def batch_of(layout: Layout) -> dict[str, jax.Array]:
    """Random tokens."""
    tokens = np.random.default_rng(0).integers(0, model().vocab_size, (B, S), dtype=np.int32)
    ones, positions = np.ones((B, S), np.float32), np.broadcast_to(np.arange(S, dtype=np.int32), (B, S))
    batch = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, 1),
        "segment_ids": np.ones((B, S), np.int32),
        "positions": positions,
        "loss_weights": ones,
        "source_id": np.zeros(B, np.int32),
    }
    return jax.device_put(batch, batch_sharding(layout.mesh))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each")
    parser.add_argument("--mesh", default="fsdp=1", help="lengths of mesh axes, fsdp=4,tensor=2")
    parser.add_argument("--only", default=",".join(names(Optimizer)), help="which optimizers, adamw among them")
    args = parser.parse_args()
    mesh = {axis: int(n) for axis, n in (part.split("=") for part in args.mesh.split(","))}
    layout = make_layout(model(), ShardingConfig(mesh=mesh), jax.devices()[: int(np.prod(list(mesh.values())))])
    rows = []
    with jax.set_mesh(layout.mesh):
        batch = batch_of(layout)
        subjects = {name: Subject(find(Optimizer, name, "name")(), layout, batch) for name in args.only.split(",")}
        for i in range(args.steps + 2):
            for subject in subjects.values() if i % 2 else reversed(subjects.values()):
                subject.step()
    plain = statistics.median(subjects["adamw"].seconds[2:])
    for name, s in subjects.items():
        low, middle, high = statistics.quantiles(s.seconds[2:], n=4)
        rows.append([name, low, middle, high, middle / plain, s.mebibytes, s.temporary])
    print(table(["optimizer", "25 %", "median s", "75 %", "of adamw", "state MiB", "temporary MiB"], rows))


if __name__ == "__main__":
    main()
