"""What guards, a mean of the parameters and looks at norms cost a train step, against the plain step, interleaved.

    python -m benchmarks.safeguards                     # 110 million parameters, 1,024 tokens a step
    python -m benchmarks.safeguards --small             # seconds, for a try

Every round takes each step once, in turn, on the same parameters. A watched step is measured where it looks (once in
`--every` steps) and where it does not; the amortised cost is that of both.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.size import param_count
from jaxpt.models.specs import param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.averagings.ema import Ema
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.guards.skip import Skip
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

LARGE = ModelConfig(
    vocab_size=32_000,
    embed=768,
    heads=12,
    kv_heads=12,
    head_dim=64,
    mlp=2048,
    layers=uniform_layers(12),
    tie_embeddings=True,
)
SMALL = ModelConfig(
    vocab_size=512,
    embed=64,
    heads=4,
    kv_heads=4,
    head_dim=16,
    mlp=128,
    layers=uniform_layers(2),
    tie_embeddings=True,
)


def batch(model: ModelConfig, rows: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens, one document a row."""
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (rows, length + 1)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "loss_weights": np.ones((rows, length), np.float32),
        "source_id": np.zeros(rows, np.int32),
    }


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a model of a few thousand parameters")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--every", type=int, default=100, help="steps between two looks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="plain,watch,guard=skip,averaging=ema", help="what is measured, plain first")
    given = parser.parse_args()
    model = SMALL if given.small else LARGE
    layout = make_layout(model, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(model))
    spec = StepSpec(model, NextToken(), Compute(), given.rows, given.length, 1, (), 1)
    kinds = {
        "plain": Safeguards(),
        "watch": Safeguards(watch=given.every),
        "guard=skip": Safeguards(guard=Skip()),
        "averaging=ema": Safeguards(averaging=Ema()),
    }
    kinds = {name: kinds[name] for name in given.only.split(",")}
    turns = {name: (name, 0) for name in kinds} | {"watch, looking": ("watch", given.every - 1)}
    steps = {name: make_step(spec, optimizer, layout, safeguards=kind) for name, kind in kinds.items()}
    placed = place(batch(model, given.rows, given.length), batch_sharding(layout.mesh), given.rows)
    state = new_state(layout, optimizer, init_params(model, 0, layout.params))
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    cpu: dict[str, list[float]] = {name: [] for name in turns}
    with jax.set_mesh(layout.mesh):
        for n in range(given.rounds + 1):  # the first compiles
            for name, (kind, number) in turns.items():
                full, _ = kinds[kind].begin(state._replace(mean={}, guard={}), layout, optimizer.specs)
                jax.block_until_ready(full)
                begun, worked = time.perf_counter(), time.process_time()
                state, _ = jax.block_until_ready(
                    steps[kind](full, placed, StepArguments(np.float32(1e-4), step=np.uint32(number)))
                )
                if n:
                    seconds[name].append(time.perf_counter() - begun)
                    cpu[name].append(time.process_time() - worked)
    print(f"{param_count(model):,} parameters, {given.rows} × {given.length} tokens a step, {given.rounds} rounds")
    show("by wall", seconds, given)
    show("by CPU seconds", cpu, given)  # what neighbours on the machine disturb less


def show(how: str, seconds: dict[str, list[float]], given: argparse.Namespace) -> None:
    """Prints medians, the median of the ratios of each round, and what a watch costs over all steps."""
    print(how)
    ratio = lambda name: statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"]))  # noqa: E731
    for name, values in seconds.items():
        print(f"{name:16} {statistics.median(values):8.3f} s  {ratio(name) - 1:+8.2%}")
    rest, look = ratio("watch") - 1, ratio("watch, looking") - ratio("watch")
    print(f"a look every {given.every} steps: {rest:+.2%} in each step, {look:+.2%} where it looks, ", end="")
    print(f"amortised {rest + look / given.every:+.2%} (of looking alone {look / given.every:+.3%})")


if __name__ == "__main__":
    main()
