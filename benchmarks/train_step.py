"""Speed of the real train step: `python -m benchmarks.train_step [--baseline=CHECKOUT]`.

Against `plain_reference.py` and `torch_reference.py` (torch.compile), each in a process of its own: prints tokens/s,
MFU and peak device memory, and ratios. All start from the same parameters, and their losses must agree. The targets are
a speed of at least 0.95 of plain JAX's and 1.0 of torch's.

With `--baseline=CHECKOUT` against the step of another checkout of this repository: prints seconds (median
and quartiles) and the compiler's figures of both programs, memory and bytes accessed, and their ratios. The targets are
1.02 for time and 1.01 for memory and bytes.

Steps are interleaved, so that whatever else the machine does hits both; medians are compared.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import plain_reference as plain
from benchmarks.step_worker import Worker
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

HERE = Path(__file__).resolve().parents[1]
B, S = 8, 256
RATE = np.float32(1e-3)
GIVEN = StepArguments(RATE)


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


def ours(remat: str = "full", unroll: str = ""):
    """State, step, placed batch and mesh of jaxpt."""
    config = model()
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(config))
    spec = StepSpec(config, NextToken(), Compute(remat=remat, unroll=bool(unroll)), B, S, 1, (), 3)
    params = init_params(config, 0, layout.params)
    state = new_state(layout, optimizer, params)
    return state, make_step(spec, optimizer, layout), place(batch(), batch_sharding(layout.mesh), B), layout


def memory(compiled) -> float:
    """Arguments, outputs that alias none of them, and temporaries, in MiB."""
    m = compiled.memory_analysis()
    total = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return total / 2**20


JAXPT = """
import sys
import jax, numpy as np
from benchmarks import train_step

state, step, data, layout = train_step.ours(*sys.argv[1:])
given = getattr(train_step, "GIVEN", np.float32(1e-3))  # once the learning rate alone
with jax.set_mesh(layout.mesh):
    compiled = step.lower(state, data, given).compile()
cost = compiled.cost_analysis()
facts = {"MiB": train_step.memory(compiled), "bytes": cost["bytes accessed"], "flops": cost["flops"]}

def take():
    global state
    with jax.set_mesh(layout.mesh):
        state, metrics = step(state, data, given)
    return float(metrics["train/loss"])
"""
PLAIN = """
from benchmarks import train_step
take, facts = train_step.plain_step()
"""
TORCH = """
from benchmarks import train_step
take, facts = train_step.torch_step()
"""


def plain_step() -> tuple[Callable[[], float], dict[str, float]]:
    """The plain reference's step, and its memory."""
    params = init_params(model(), 0)
    given = {"table": params["embed"]["table"], "blocks": params["blocks"]["dense"], "final_norm": params["final_norm"]}
    state, step = plain.start(given)
    data = jax.device_put(batch())
    facts = {"MiB": memory(step.lower(state, data, RATE).compile())}

    def take() -> float:
        nonlocal state
        state, value = step(state, data, RATE)
        return float(value)

    return take, facts


def torch_step() -> tuple[Callable[[], float], dict[str, float]]:
    """torch.compile's step; its memory is not known to torch on a CPU."""
    from benchmarks import torch_reference

    params = jax.tree.map(np.asarray, init_params(model(), 0))
    return torch_reference.start(model(), params, batch(), float(RATE), os.cpu_count() or 1), {}


def against_checkout(baseline: Path, steps: int, warm_up: int = 3) -> None:
    """Measures against another checkout and prints."""
    here, there = workers = [Worker(JAXPT, HERE), Worker(JAXPT, baseline.resolve())]
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
    parser.add_argument("--remat", default="full", help="what jaxpt computes again (full, as the plain reference does)")
    parser.add_argument("--unroll", action="store_true", help="jaxpt writes its layers out, as torch does")
    a = parser.parse_args()
    if a.baseline:
        against_checkout(Path(a.baseline), a.steps or 100)
    else:
        against_references(a.steps or 12, a.remat, a.unroll)


def against_references(steps: int, remat: str, unroll: bool, warm_up: int = 2) -> None:
    """Measures against the plain reference and torch.compile and prints."""
    workers = {
        "jaxpt": Worker(JAXPT, HERE, remat, "unroll" if unroll else ""),
        "plain": Worker(PLAIN, HERE),
        "torch.compile": Worker(TORCH, HERE),
    }
    for i in range(steps + warm_up):
        turn = i % len(workers)
        for worker in [*workers.values()][turn:] + [*workers.values()][:turn]:
            worker.step()
    peak, source = peak_flops(None, jax.devices()[:1])
    flops = flops_per_token(model(), S)
    rows = []
    for name, worker in workers.items():
        worker.close()
        same = {"rtol": 1e-3, "err_msg": f"{name} does not compute the same thing"}
        np.testing.assert_allclose(worker.losses, workers["jaxpt"].losses, **same)
        wall, cpu = (statistics.median(s[warm_up:]) for s in (worker.seconds, worker.cpu))
        mib = worker.facts.get("MiB", "")
        rows.append([name, wall, cpu, B * S / wall, B * S / wall * flops / peak, mib, worker.losses[-1]])
    print(table(["step", "seconds", "CPU seconds", "tokens/s", "MFU", "MiB", "last loss"], rows))
    mine = workers["jaxpt"]
    for name, target in (("plain", 0.95), ("torch.compile", 1.0)):
        pairs = [b / a for a, b in zip(mine.seconds[warm_up:], workers[name].seconds[warm_up:])]
        low, middle, high = statistics.quantiles(pairs, n=4)
        print(
            f"speed of jaxpt / {name}: {middle:.3f} (target {target}), half of {steps} pairs in {low:.3f} to {high:.3f}"
        )
    print(f"memory of jaxpt / plain: {mine.facts['MiB'] / workers['plain'].facts['MiB']:.3f}")
    print(f"MFU: {convention()}; {source}")


if __name__ == "__main__":
    main()
