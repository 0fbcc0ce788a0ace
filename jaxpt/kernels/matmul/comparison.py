"""What multiplies in 8 bits against the same rounded factors multiplied in float32, at a run's own widths.

Both round the factors alike, so what differs is how sums are kept (Hopper's forward products: 14 bits) and the rounding
of the result. A layout or a scale that is wrong is off by as much as the product itself.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.comparison import Comparison, Errors, errors, judged
from jaxpt.kernels.matmul import fp8_emulated
from jaxpt.kernels.matmul.call import MatmulCall
from jaxpt.kernels.matmul.dispatch import IMPLEMENTATIONS

ROWS, ROWS_ON_CPU, WIDTH = 2048, 128, 8192  # at most
ALLOWED = 2.0**-7  # four times a bfloat16 result's rounding, a quarter of what rounding the factors costs
PARTS = ("out", "dx", "dw")

Multiply = Callable[[str, jax.Array, jax.Array, jax.lax.Precision | None], jax.Array]


def compare(name: str, call: MatmulCall) -> Comparison:
    """Compares `name` on this process's device, forward and both gradients.

    Raises:
        Exception: whatever the compiler raises.
    """
    return judged([_one(IMPLEMENTATIONS[name].run, call)], "fp8_emulated")


def facts(call: MatmulCall) -> dict[str, Any]:
    """Returns what a comparison depends on."""
    return {key: value for key, value in asdict(call).items() if key != "names"}


def _one(product: Multiply, call: MatmulCall) -> tuple[Errors, Errors]:
    m = min(call.rows, ROWS_ON_CPU if call.platform == "cpu" else ROWS)
    rng = np.random.default_rng(1)
    k, n = min(call.width_in, WIDTH), min(call.width_out, WIDTH)
    shapes = ((m, k), (k, n), (m, n))
    rounded = [jnp.asarray(rng.standard_normal(shape, np.float32), call.dtype) for shape in shapes]
    run = jax.jit(_with_gradients, static_argnums=0)
    found = _errors(run(product, *rounded), run(fp8_emulated.run, *(x.astype(jnp.float32) for x in rounded)))
    return found, dict.fromkeys(found, ALLOWED)


def _with_gradients(product: Multiply, x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
    y, back = jax.vjp(lambda x, w: product("mk,kn->mn", x, w, jax.lax.Precision.HIGHEST), x, w)
    return (y, *back(dy.astype(y.dtype)))


def _errors(got: tuple[jax.Array, ...], want: tuple[jax.Array, ...]) -> Errors:
    return errors({part: (a, b) for part, a, b in zip(PARTS, got, want)})
