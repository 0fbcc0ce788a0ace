"""The train step of the 1.2B model in bfloat16: what remat, batch size and kernels make of its speed and memory."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import WIDE, Sizes, documents, positions, visible_flops_per_token
from benchmarks.gpu.timing import seconds_per_call
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.init import init_params
from jaxpt.models.size import flops_per_token, param_count
from jaxpt.models.specs import param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import BuiltOptimizer, make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.speed import peak_flops
from jaxpt.training.state import Layout, make_layout, new_state
from jaxpt.training.step import StepSpec, make_step


@dataclass(frozen=True)
class Try:
    """One way to run the step."""

    attention: str
    remat: str
    batch: int
    packed: bool = False
    chunk: int | None = None
    unroll: bool = False
    matmul: str = "auto"
    options: tuple[tuple[str, bool | str], ...] = ()  # of the compiler, for this program

    @property
    def name(self) -> str:
        """What differs, in words."""
        rows = "packed" if self.packed else "whole rows"
        loss = f", loss in chunks of {self.chunk}" if self.chunk else ""
        loss += "" if self.matmul == "auto" else f", matmul {self.matmul}"
        layers = ", layers written out" if self.unroll else ""
        options = "".join(f", {name}={value}" for name, value in self.options)
        return f"{rows}, batch {self.batch}, attention {self.attention}, remat {self.remat}{layers}{loss}{options}"


class Model:
    """The state on the device, which every try goes on with, so that it is in memory once."""

    def __init__(self, config: ModelConfig, optimizer: AdamW = AdamW()) -> None:  # noqa: B008
        self.config = config
        self.layout: Layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
        self.optimizer: BuiltOptimizer = make_optimizer(optimizer, param_specs(config))
        self.state = new_state(self.layout, self.optimizer, init_params(config, 0, self.layout.params))

    def optimizer_bytes(self) -> int:
        """Bytes that the update must move at least: gradient, parameters and state read, the latter two written.

        The gradient is read once more for its norm, before it can be clipped.
        """
        n = param_count(self.config) * 4
        return 2 * n + 2 * n + 2 * self.optimizer.state_bytes


def made_batch(sizes: Sizes, rows: int, packed: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens in whole rows, or in rows of packed documents."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, sizes.model.vocab_size, (rows, sizes.sequence + 1)).astype(np.int32)
    shape = (rows, sizes.sequence)
    ids = documents(rows, sizes.sequence, sizes.document, seed) if packed else np.ones(shape, np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": ids,
        "positions": positions(ids),
        "loss_weights": np.ones(shape, np.float32),
        "source_id": np.zeros(rows, np.int32),
    }


def prepare(model: Model, sizes: Sizes, a_try: Try) -> tuple[Callable[[], Any], dict[str, float]]:
    """Compiles the step of one try; returns what takes a step, and seconds of compilation and GiB of temporaries."""
    compute = Compute(
        dtype="bfloat16",
        remat=a_try.remat,
        attention=a_try.attention,
        unroll=a_try.unroll,
        matmul=a_try.matmul,
    )
    spec = StepSpec(model.config, NextToken(chunk=a_try.chunk), compute, a_try.batch, sizes.sequence, 1, (), 1)
    step = make_step(spec, model.optimizer, model.layout)
    batch = made_batch(sizes, a_try.batch, a_try.packed)
    data = place(batch, batch_sharding(model.layout.mesh), a_try.batch)
    given = StepArguments(np.float32(0))  # one batch again and again: learnt by heart, its gradients would vanish
    with jax.set_mesh(model.layout.mesh):
        begun = time.perf_counter()
        compiled = step.lower(model.state, data, given).compile(dict(a_try.options))
        facts = {"compile_s": time.perf_counter() - begun}
    facts["temporaries_gib"] = compiled.memory_analysis().temp_size_in_bytes / 2**30

    def one() -> Any:
        model.state, metrics = compiled(model.state, data, given)
        return metrics

    return one, facts


def run(model: Model, sizes: Sizes, a_try: Try) -> dict[str, Any]:
    """Takes steps of one try and returns what they cost."""
    one, facts = prepare(model, sizes, a_try)
    with jax.set_mesh(model.layout.mesh):
        first = float(jax.block_until_ready(one())["train/loss"])
        seconds, spread = seconds_per_call(one, dataclasses.replace(sizes, seconds=4 * sizes.seconds))
        last = float(one()["train/loss"])
    tokens = a_try.batch * sizes.sequence
    peak, _ = peak_flops(None, jax.devices()[:1])
    ids = documents(a_try.batch, sizes.sequence, sizes.document) if a_try.packed else np.ones((1, sizes.sequence))
    return {
        "tokens_per_s": tokens / seconds,
        "mfu": tokens / seconds * visible_flops_per_token(sizes, ids) / peak,
        "step_ms": seconds * 1e3,
        "spread": spread,
        "peak_gib": _peak_gib(),
        **facts,
        "loss": f"{first:.4f} to {last:.4f}",
    }


def _peak_gib() -> float:
    """The most that was in use since the process began."""
    stats: Mapping[str, int] = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0) / 2**30


def tries(sizes: Sizes) -> list[Try]:
    """The most promising first: a cut leaves the main figure."""
    if jax.default_backend() != "gpu":
        rows = sizes.batches[0]
        return [Try("auto", "kernels", rows, unroll=True), Try("auto", "full", rows, packed=True)]
    from benchmarks.gpu.attention_calls import register
    from jaxpt.kernels.attention import IMPLEMENTATIONS

    register()
    small, large = sizes.batches[0], sizes.batches[-1]
    most = large + small
    best = "jax cudnn whole"  # what the mask costs where each row is one document, and the program knows it
    own = "auto" if "cudnn" in IMPLEMENTATIONS else "jax cudnn"
    out = [Try(best, "kernels", large, unroll=True), Try(best, "kernels", most, unroll=True)]
    if sizes.model == WIDE:
        return out
    return [
        *out,
        Try(own, "kernels", large, packed=True, unroll=True),
        Try("skipping", "kernels", large, packed=True, unroll=True),
        Try(own, "kernels", large, unroll=True),
        Try("jax cudnn", "kernels", large, packed=True, unroll=True),
        Try(best, "kernels", large),
        Try("tokamax mosaic whole", "kernels", large, unroll=True),
        Try("tokamax mosaic", "kernels", large, packed=True, unroll=True),
        Try(best, "none", small, unroll=True),
        Try(best, "full", 2 * large),
        Try(best, "branches", large),
    ]


def measure(sizes: Sizes, rows: Rows) -> None:
    """Measures every try, the best again at the end so that its spread is seen."""
    model = Model(sizes.model)
    traffic = model.optimizer_bytes()
    rows.add(
        "model",
        parameters=param_count(sizes.model),
        flops_per_token=flops_per_token(sizes.model, sizes.sequence),
        optimizer_gib=traffic / 2**30,
        optimizer_bytes_per_param=traffic / param_count(sizes.model),
    )
    best: tuple[float, Try] | None = None
    for a_try in tries(sizes):
        result = rows.measure(f"step {a_try.name}", 18, functools.partial(run, model, sizes, a_try))
        if result and not a_try.packed and (best is None or result["mfu"] > best[0]):
            best = (result["mfu"], a_try)
    if best:
        rows.add("step best", mfu=best[0], which=best[1].name)
