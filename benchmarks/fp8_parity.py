"""What products in 8 bits cost a model: held-out loss beside bfloat16's, step for step on the same batches.

    python -m benchmarks.fp8_parity                           # this project's own text, 0.8 million parameters
    python -m benchmarks.fp8_parity --steps=1500 --embed=64 --layers=2 --length=64 --arms=plain,fp8

A decoder over bytes is trained three ways from the same first values: plain, in 8 bits (in the units where there are
any, else emulated), and in 8 bits of scale 1, which a comparison that means something must tell from the others. All
are measured in the plain dtype. The distance is judged against what another seed does to the plain one.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.cli.terminal import table
from jaxpt.kernels import matmul
from jaxpt.kernels.matmul import fp8_emulated
from jaxpt.kernels.matmul.call import contracted
from jaxpt.kernels.matmul.quantised import quantised_product
from jaxpt.models import Compute, ModelConfig, forward, param_specs, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.params import Params
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

ARMS = {"plain": "plain", "fp8": "fp8,fp8_emulated", "unscaled": "unscaled"}
HELD_OUT = 10  # each tenth file
ROWS_MEASURED = 256


@dataclasses.dataclass(frozen=True)
class Setting:
    """One size of the comparison."""

    model: ModelConfig
    rows: int
    length: int
    steps: int
    rate: float


def register_unscaled() -> None:
    """Adds the planted fault to the implementations: small values, as gradients are, become zero."""

    def dot(a, b, *rest):  # type: ignore[no-untyped-def]
        one = jnp.ones((), jnp.float32)
        as_they_are = [q._replace(values=_again(q), scale=one) for q in (a, b)]
        return fp8_emulated._dot(*as_they_are, *rest)

    run = lambda equation, x, w, precision: quantised_product(x, w, contracted(equation), dot)  # noqa: E731
    matmul.IMPLEMENTATIONS["unscaled"] = SimpleNamespace(refuses=lambda call: None, run=run)


def _again(q: matmul.scaling.Quantised) -> jax.Array:
    """The values as the format has them without a scale."""
    most = float(jnp.finfo(q.values.dtype).max)
    return jnp.clip(q.values.astype(jnp.float32) * q.scale, -most, most).astype(q.values.dtype)


def texts(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes that are trained on and those held out."""
    files = sorted(f for end in ("*.py", "*.md") for f in folder.rglob(end) if ".venv" not in f.parts)
    join = lambda some: np.frombuffer(b"\n\n".join(f.read_bytes() for f in some), np.uint8)  # noqa: E731
    return join([f for i, f in enumerate(files) if i % HELD_OUT]), join(files[::HELD_OUT])


def batch(stream: np.ndarray, at: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Rows that begin at `at`."""
    tokens = np.stack([stream[i : i + length + 1] for i in at]).astype(np.int32)
    shape = tokens[:, 1:].shape
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), shape).copy(),
        "loss_weights": np.ones(shape, np.float32),
        "source_id": np.zeros(len(at), np.int32),
    }


def batches(stream: np.ndarray, setting: Setting, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a run: the same for every arm."""
    rng = np.random.default_rng(seed)
    for _ in range(setting.steps):
        yield batch(stream, rng.integers(0, len(stream) - setting.length - 1, setting.rows), setting.length)


def trained(arm: str, stream: np.ndarray, setting: Setting, seed: int) -> tuple[Params, list[float]]:
    """Returns the parameters at the end, and the loss of each step."""
    layout = make_layout(setting.model, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(setting.model))
    compute = Compute("bfloat16", matmul=ARMS[arm])
    spec = StepSpec(setting.model, NextToken(), compute, setting.rows, setting.length, 1, (), 1)
    step, losses = make_step(spec, optimizer, layout), []
    with jax.set_mesh(layout.mesh):
        state = new_state(layout, optimizer, init_params(setting.model, seed, layout.params))
        for i, rows in enumerate(batches(stream, setting, seed)):
            warm, left = min(1.0, (i + 1) / 30), 1 - i / setting.steps
            given = StepArguments(np.float32(setting.rate * warm * left))
            state, metrics = step(state, place(rows, batch_sharding(layout.mesh), setting.rows), given)
            losses.append(metrics["train/loss"])
    return state.params, [float(x) for x in losses]


def held_out_loss(params: Params, stream: np.ndarray, setting: Setting) -> float:
    """Nats per byte of rows spread over the held-out text, in the plain dtype."""

    @jax.jit
    def nats(params: Params, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        logits = forward(setting.model, params, tokens, compute=Compute("bfloat16"))
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1))

    at = np.linspace(0, len(stream) - setting.length - 2, ROWS_MEASURED).astype(int).reshape(-1, 16)
    rows = [batch(stream, some, setting.length) for some in at]
    return float(np.mean([nats(params, one["tokens"], one["targets"]) for one in rows]))


def main() -> None:
    """Prints a row for each arm."""
    parser = argparse.ArgumentParser("benchmarks.fp8_parity", description=__doc__)
    parser.add_argument("--text", type=Path, default=Path(__file__).parents[1], help="folder with .py and .md files")
    for name, value in {"steps": 300, "seeds": 2, "embed": 128, "layers": 4, "rows": 8, "length": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--arms", default=",".join(ARMS), help="which of them, plain first")
    parser.add_argument("--rate", type=float, default=3e-3, help="largest learning rate")
    a = parser.parse_args()
    arms = a.arms.split(",")
    if arms[0] != "plain" or not set(arms) <= set(ARMS):
        parser.error(f"--arms={a.arms}: give plain first, then some of {', '.join(ARMS)}, as plain,fp8")
    register_unscaled()
    heads = max(2, a.embed // 32)
    model = ModelConfig(256, a.embed, heads, heads // 2, 32, 3 * a.embed, uniform_layers(a.layers))
    setting = Setting(model, a.rows, a.length, a.steps, a.rate)
    own, held = texts(a.text)
    losses: dict[str, list[float]] = {}
    for arm in arms:
        for seed in range(a.seeds):
            begun = time.monotonic()
            params, of_steps = trained(arm, own, setting, seed)
            losses.setdefault(arm, []).append(held_out_loss(params, held, setting))
            print(
                f"{arm}, seed {seed}: held out {losses[arm][-1]:.4f}, last 50 steps {np.mean(of_steps[-50:]):.4f}, "
                f"{time.monotonic() - begun:.0f} s",
                flush=True,
            )
    print(table(["", "held-out nats per byte, by seed", "from plain, mean"], list(summary(losses))))
    size = f"{len(own):,} bytes of text, {a.steps} steps of {a.rows} x {a.length}"
    print(f"{size}; seeds move plain by {spread(losses):.4f}")


def summary(losses: dict[str, list[float]]) -> Iterator[list[str]]:
    """Rows of the table."""
    for arm, of_seeds in losses.items():
        distance = np.mean(np.subtract(of_seeds, losses["plain"]))
        yield [arm, " ".join(f"{x:.4f}" for x in of_seeds), f"{distance:+.4f}"]


def spread(losses: dict[str, list[float]]) -> float:
    """How far apart the plain runs of different seeds are."""
    return max(losses["plain"]) - min(losses["plain"])


if __name__ == "__main__":
    main()
