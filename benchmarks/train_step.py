"""Speed of the real train step: `python -m benchmarks.train_step [--baseline=CHECKOUT]`.

Against `plain_reference.py` in the same process: prints tokens/s, MFU and peak device memory of both, and their ratio.
Both start from the same parameters, and their last losses must agree. The target is a ratio of at least 0.95.

With `--baseline=CHECKOUT` against the step of another checkout of this repository, each in a process of its own: prints
seconds (median and quartiles) and the compiler's figures of both programs, memory and bytes accessed, and their ratios.
The targets are 1.02 for time and 1.01 for memory and bytes.

Steps are interleaved, so that whatever else the machine does hits both; medians are compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import plain_reference as plain
from jaxpt.cli.terminal import table
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.size import flops_per_token
from jaxpt.models.specs import param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.speed import convention, peak_flops
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

B, S = 8, 256
GIVEN = StepArguments(np.float32(1e-3))


def model() -> ModelConfig:
    """The reference's shape."""
    return ModelConfig(
        vocab_size=plain.VOCAB,
        embed=plain.EMBED,
        heads=plain.HEADS,
        kv_heads=plain.KV,
        head_dim=plain.HEAD,
        mlp=plain.MLP,
        layers=uniform_layers(plain.LAYERS),
        tie_embeddings=True,
    )


def batch() -> dict[str, np.ndarray]:
    """Random rows of two packed documents each."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, plain.VOCAB, (B, S + 1)).astype(np.int32)
    index = np.arange(S, dtype=np.int32)[None]
    first = index < rng.integers(S // 4, S // 2, (B, 1))
    positions = np.where(first, index, index - first.sum(1, keepdims=True)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.where(first, 1, 2).astype(np.int32),
        "positions": positions,
        "loss_weights": np.ones((B, S), np.float32),
        "source_id": (np.arange(B) % 3).astype(np.int32),
    }


def ours():
    """State, step, placed batch and mesh of jaxpt."""
    config = model()
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(config))
    spec = StepSpec(config, NextToken(), Compute(remat="full"), B, S, 1, (), 3)
    params = init_params(config, 0, layout.params)
    state = new_state(layout, optimizer, params)
    return state, make_step(spec, optimizer, layout), place(batch(), batch_sharding(layout.mesh), B), layout


def memory(compiled) -> float:
    """Arguments, outputs that alias none of them, and temporaries, in MiB."""
    m = compiled.memory_analysis()
    total = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return total / 2**20


WORKER = """
import json, sys, time
import jax, numpy as np
from benchmarks import train_step

state, step, data, layout = train_step.ours()
given = getattr(train_step, "GIVEN", np.float32(1e-3))  # once the learning rate alone
with jax.set_mesh(layout.mesh):
    compiled = step.lower(state, data, given).compile()
    cost = compiled.cost_analysis()
    facts = {"MiB": train_step.memory(compiled), "bytes": cost["bytes accessed"], "flops": cost["flops"]}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        state, metrics = step(state, data, given)
        loss = float(metrics["train/loss"])
        print(json.dumps({"seconds": time.perf_counter() - begun, "loss": loss}), flush=True)
"""


class Worker:
    """The step of a checkout in a process of its own, taken when asked."""

    def __init__(self, checkout: Path):
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=checkout,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.facts: dict[str, float] = self._read()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self) -> None:
        """Takes a step and notes its time and loss."""
        print(file=self._process.stdin, flush=True)
        answer = self._read()
        self.seconds.append(answer["seconds"])
        self.losses.append(answer["loss"])

    def close(self) -> None:
        """Lets the process end."""
        self._process.communicate()

    def _read(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the process ended with code {self._process.wait()}")
        return json.loads(line)


def against_checkout(baseline: Path, steps: int, warm_up: int = 3) -> None:
    """Measures against another checkout and prints."""
    here, there = workers = [Worker(Path(__file__).resolve().parents[1]), Worker(baseline.resolve())]
    for i in range(steps + warm_up):
        for worker in workers if i % 2 else reversed(workers):
            worker.step()
    rows = []
    for name, worker in (("this code", here), ("baseline", there)):
        worker.close()
        quartiles = statistics.quantiles(worker.seconds[warm_up:], n=4)
        rows.append([name, *quartiles, worker.facts["MiB"], worker.facts["bytes"] / 2**20, worker.losses[-1]])
    print(table(["step", "25 %", "median s", "75 %", "MiB", "MiB accessed", "last loss"], rows))
    same = {"rtol": 1e-3, "atol": 1e-3, "err_msg": "the steps do not compute the same thing"}  # 0 is reached
    np.testing.assert_allclose(here.losses, there.losses, **same)
    for what, target in (("MiB", 1.01), ("bytes", 1.01), ("flops", None)):
        aim = f" (target {target})" if target else ""
        print(f"{what} of this code / baseline: {here.facts[what] / there.facts[what]:.4f}{aim}")
    pairs = [a / b for a, b in zip(here.seconds[warm_up:], there.seconds[warm_up:])]
    low, middle, high = statistics.quantiles(pairs, n=4)
    medians = [statistics.median(w.seconds[warm_up:]) for w in workers]
    print(f"seconds of this code / baseline: {medians[0] / medians[1]:.4f} by medians (target 1.02); of {steps} pairs")
    print(f"the median ratio is {middle:.4f}, half of them lie within {low:.3f} to {high:.3f}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="measured steps of each (12, with --baseline 100)")
    parser.add_argument("--baseline", metavar="CHECKOUT", help="compare with the step of this checkout")
    a = parser.parse_args()
    if a.baseline:
        against_checkout(Path(a.baseline), a.steps or 100)
    else:
        against_plain(a.steps or 12)


def against_plain(steps: int) -> None:
    """Measures against the plain reference and prints."""
    state, step, data, layout = ours()
    rate = np.float32(1e-3)
    copy = jax.tree.map(jnp.copy, state.params)
    mine = {"table": copy["embed"]["table"], "blocks": copy["blocks"]["dense"], "final_norm": copy["final_norm"]}
    reference, plain_step = plain.start(mine)
    plain_data = jax.device_put(batch())
    with jax.set_mesh(layout.mesh):
        used = [memory(step.lower(state, data, StepArguments(rate)).compile())]
    used.append(memory(plain_step.lower(reference, plain_data, rate).compile()))
    seconds: tuple[list[float], list[float]] = ([], [])
    losses = [0.0, 0.0]
    for i in range(steps + 2):
        for which in (0, 1) if i % 2 else (1, 0):
            begun = time.perf_counter()
            if which == 0:
                with jax.set_mesh(layout.mesh):
                    state, metrics = step(state, data, StepArguments(rate))
                losses[0] = float(metrics["train/loss"])
            else:
                reference, value = plain_step(reference, plain_data, rate)
                losses[1] = float(value)
            if i >= 2:  # the first two warm up
                seconds[which].append(time.perf_counter() - begun)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3, err_msg="the two steps do not compute the same thing")
    peak, source = peak_flops(None, jax.devices()[:1])
    flops = flops_per_token(model(), S)
    medians = [statistics.median(s) for s in seconds]
    rows = []
    for name, s, mib, loss in zip(("jaxpt", "plain"), medians, used, losses):
        rows.append([name, s, B * S / s, B * S / s * flops / peak, mib, loss])
    print(table(["step", "seconds", "tokens/s", "MFU", "MiB", "last loss"], rows))
    print(f"speed of jaxpt / plain: {medians[1] / medians[0]:.3f} (target 0.95), memory {used[0] / used[1]:.3f}")
    print(f"MFU: {convention()}; {source}")


if __name__ == "__main__":
    main()
