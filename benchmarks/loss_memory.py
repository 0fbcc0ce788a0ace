"""What the loss and its gradient take, in chunks of tokens against all logits at once: memory and time.

The last streams of student and teacher are made; head, loss and the gradient by head and stream are compiled and run.
Memory is the compiler's own figure for temporaries (and results); the time is the median of rounds that take turns.

python -m benchmarks.loss_memory
python -m benchmarks.loss_memory --vocab=151936 --teacher_vocab=152064 --rows=4 --length=1024 --embed=512
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.cli.terminal import table
from jaxpt.kernels.token_chunks import chunk_length
from jaxpt.models import Compute, ModelConfig, init_params, uniform_layers
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import FrozenModel, Inputs


def main() -> int:
    """Compiles all forms, runs them in turns and prints a table."""
    a = arguments()
    model, teacher = _model(a.vocab, a.embed, a.length), _model(a.teacher_vocab, a.teacher_embed, a.length)
    inputs = made_inputs(model, teacher, a.rows, a.length)
    x, theirs = (
        jax.random.normal(jax.random.key(i), (a.rows, a.length, c.embed)) for i, c in enumerate((model, teacher))
    )
    forms: dict[str, Callable[..., Any]] = {}
    facts: dict[str, list[object]] = {}
    for name, vocabularies in (("next_token", a.vocab), ("distill", a.vocab + a.teacher_vocab)):
        for chunk in (a.length, a.chunk or chunk_length(a.rows, a.length, vocabularies, a.embed)):
            key = f"{name} {'dense' if chunk == a.length else f'chunks of {chunk}'}"
            began = time.monotonic()
            forms[key] = compiled(name, chunk, inputs, x, theirs)
            memory = forms[key].memory_analysis()  # type: ignore[attr-defined]
            mib = [n / 2**20 for n in (memory.temp_size_in_bytes, memory.output_size_in_bytes)]
            facts[key] = [*(round(m, 1) for m in mib), round(time.monotonic() - began, 1)]
    times: dict[str, list[float]] = {key: [] for key in forms}
    values: dict[str, float] = {}
    for i in range(a.rounds + 1):
        for key, form in forms.items():
            began = time.perf_counter()
            value, _ = jax.block_until_ready(form(inputs.params, x, theirs, inputs.frozen["teacher"].params))
            values[key] = float(value)
            if i:  # the first round warms up
                times[key].append(time.perf_counter() - began)
    rows = [[key, *facts[key], round(median(times[key]), 3), values[key]] for key in forms]
    logits = a.rows * a.length * a.vocab * 4 / 2**20
    print(f"vocabularies {a.vocab:,} and {a.teacher_vocab:,}, {a.rows} × {a.length} tokens: logits {logits:,.0f} MiB")
    print(table(["loss and gradient", "temporary MiB", "results MiB", "compiled in s", "seconds", "loss"], rows))
    return 0


def compiled(name: str, chunk: int, inputs: Inputs, x: jax.Array, theirs: jax.Array) -> Callable[..., Any]:
    """The compiled loss with its gradient by head and stream."""
    plain, distill = NextToken(chunk=chunk), Distill(teacher="made", chunk=chunk)

    def loss(params: Any, x: jax.Array, theirs: jax.Array, teacher: Any) -> jax.Array:
        frozen = {"teacher": FrozenModel(inputs.frozen["teacher"].config, teacher)}
        given = dataclasses.replace(inputs, params=params, frozen=frozen)
        if name == "next_token":
            return plain.cross_entropy(given, x).loss
        return distill.from_streams(given, x, theirs).loss

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return both.lower(inputs.params, x, theirs, inputs.frozen["teacher"].params).compile()


def made_inputs(model: ModelConfig, teacher: ModelConfig, rows: int, length: int) -> Inputs:
    """Inputs of an objective with random targets; of the parameters only the heads."""
    rng = np.random.default_rng(0)
    ints = lambda high: jnp.asarray(rng.integers(0, high, (rows, length)), jnp.int32)  # noqa: E731
    batch: Any = {
        "targets": ints(min(model.vocab_size, teacher.vocab_size)),
        "loss_weights": jnp.ones((rows, length)),
        "source_id": jnp.zeros(rows, jnp.int32),
    }
    heads = [{"embed": init_params(c, i)["embed"]} for i, c in enumerate((model, teacher))]
    return Inputs(
        model,
        heads[0],
        batch,
        jnp.float32(rows * length),
        Compute(),
        rows_per_device=rows,
        frozen={"teacher": FrozenModel(teacher, heads[1])},
        scheduled={"alpha": jnp.float32(0.5), "temperature": jnp.float32(2.0)},
    )


def _model(vocab: int, embed: int, length: int) -> ModelConfig:
    return ModelConfig(
        vocab, embed, 1, 1, 8, 8, uniform_layers(1), tie_embeddings=True, max_positions=length
    )  # a head and little else


def arguments() -> argparse.Namespace:
    """The options; the defaults need about 2 GB."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vocab", type=int, default=151_936, help="of the student (Qwen 2.5 3B)")
    p.add_argument("--teacher_vocab", type=int, default=152_064, help="of the teacher (Qwen 2.5 14B)")
    p.add_argument("--embed", type=int, default=64)
    p.add_argument("--teacher_embed", type=int, default=64)
    p.add_argument("--rows", type=int, default=1)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--chunk", type=int, help="positions of a row at a time; default: as the objectives choose")
    p.add_argument("--rounds", type=int, default=5)
    return p.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
