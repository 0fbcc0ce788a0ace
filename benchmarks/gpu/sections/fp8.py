"""Products in 8 bits: against the same rounded factors in float32, their speed beside bfloat16's, and the train step.

`mfu` stands against the card's bfloat16 peak in every row, as everywhere: the peak of 8 bits is twice that, but head,
attention and what only moves memory do not run at it. Where there are no 8-bit units (a dry run) they are emulated.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections import step
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import compiled, seconds_per_call
from jaxpt.kernels.matmul import IMPLEMENTATIONS, choose, comparison
from jaxpt.models.compute import Compute
from jaxpt.models.matmul_calls import matmul_calls

NAMED = ("fp8", "fp8_emulated")  # the first that applies


def measure(sizes: Sizes, rows: Rows) -> None:
    """The comparison that a run makes at its start, then each shape of product, then the step."""
    rows_of_step = sizes.batches[-1]
    chosen = Compute("bfloat16", matmul=",".join(NAMED))
    for (call,) in matmul_calls(sizes.model, chosen, rows_of_step, sizes.sequence):
        name = choose(call, NAMED).name
        shape = f"{', '.join(call.names)} {call.rows}x{call.width_in}x{call.width_out}"
        rows.measure(f"compare {name} {shape}", 8, functools.partial(compared, name, call))
        for one in ("plain", name):
            rows.measure(f"product {one} {shape}", 8, functools.partial(product, one, call, sizes))
    model = step.Model(sizes.model)
    best = "jax cudnn whole" if jax.default_backend() == "gpu" else "auto"
    if best != "auto":
        from benchmarks.gpu.attention_calls import register

        register()
    for matmul in ("auto", chosen.matmul):
        a_try = step.Try(best, "kernels", rows_of_step, unroll=True, matmul=matmul)
        rows.measure(f"step {a_try.name}", 18, functools.partial(step.run, model, sizes, a_try))


def compared(name: str, call: Any) -> dict[str, Any]:
    """The worst of output and gradients, by its own allowance."""
    found = comparison.compare(name, call)
    worst = max(found.errors, key=lambda part: found.errors[part] / found.allowed[part])
    return {"fits": found.reason is None, "worst": worst, "error": found.errors[worst], "allowed": found.allowed[worst]}


def product(name: str, call: Any, sizes: Sizes) -> dict[str, Any]:
    """Forward and both gradients, what quantises the factors included."""
    shapes = ((call.rows, call.width_in), (call.width_in, call.width_out), (call.rows, call.width_out))
    x, w, g = (jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate(shapes))

    def run(x: jax.Array, w: jax.Array, g: jax.Array) -> Any:
        y, back = jax.vjp(lambda x, w: IMPLEMENTATIONS[name].run("mk,kn->mn", x, w, None), x, w)
        return y, back(g)

    one, compile_s = compiled(run, x, w, g)
    seconds, spread = seconds_per_call(one, sizes)
    flops = 3 * 2 * call.rows * call.width_in * call.width_out
    return {"tflops": flops / seconds / 1e12, "ms": seconds * 1e3, "spread": spread, "compile_s": compile_s}
