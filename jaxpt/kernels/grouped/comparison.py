"""A kernel against the reference at a run's own widths: some groups of uneven sizes, one of them empty, rows left."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.comparison import Comparison, Errors, allowed, errors, judged
from jaxpt.kernels.grouped import dense
from jaxpt.kernels.grouped.call import GroupedCall
from jaxpt.kernels.grouped.dispatch import IMPLEMENTATIONS

ROWS, GROUPS = 4096, 8  # at most: the reference multiplies each row by every matrix
ROWS_ON_CPU = 1024
PARTS = ("out", "dx", "dw")

Product = Callable[[jax.Array, jax.Array, jax.Array, jax.lax.Precision | None], jax.Array]


def compare(name: str, call: GroupedCall) -> Comparison:
    """Compares the kernel `name` with the reference on this process's device, forward and both gradients.

    Raises:
        Exception: whatever the kernel or the compiler raises.
    """
    return judged([_one(IMPLEMENTATIONS[name].run, call)], "dense")


def facts(call: GroupedCall) -> dict[str, Any]:
    """Returns what a comparison depends on."""
    return asdict(call)


def uneven(rows: int, groups: int, seed: int = 0) -> np.ndarray:
    """Returns group sizes `[groups]` int32 that leave some rows over; of three groups or more one is empty."""
    left = max(1, rows // 16)
    shares = np.random.default_rng(seed).dirichlet(np.full(groups, 2.0))
    if groups > 2:
        shares[groups // 2] = 0
    return np.floor(shares / shares.sum() * (rows - left)).astype(np.int32)


def _one(kernel: Product, call: GroupedCall) -> tuple[Errors, Errors]:
    m = min(call.rows, ROWS_ON_CPU if call.platform == "cpu" else ROWS)
    e = min(call.groups, GROUPS)
    rng = np.random.default_rng(1)
    shapes = ((m, call.width_in), (e, call.width_in, call.width_out), (m, call.width_out))
    rounded = [jnp.asarray(rng.normal(size=shape), call.dtype) for shape in shapes]
    exact = [x.astype(jnp.float32) for x in rounded]
    sizes = jnp.asarray(uneven(m, e))
    own = None if call.precision is None else jax.lax.Precision[call.precision]
    run = jax.jit(_with_gradients, static_argnums=(0, 1))
    want = run(dense.run, jax.lax.Precision.HIGHEST, *exact, sizes)
    got = run(kernel, own, *rounded, sizes)
    reference = run(dense.run, own, *rounded, sizes) if call.dtype != "float32" else want
    return _errors(got, want), allowed(_errors(reference, want))


def _with_gradients(
    product: Product,
    precision: jax.lax.Precision | None,
    x: jax.Array,
    w: jax.Array,
    dy: jax.Array,
    sizes: jax.Array,
) -> tuple[jax.Array, ...]:
    y, back = jax.vjp(lambda x, w: product(x, w, sizes, precision), x, w)
    return (y, *back(dy.astype(y.dtype)))


def _errors(got: tuple[jax.Array, ...], want: tuple[jax.Array, ...]) -> Errors:
    """By position: of the matrices' gradient one row of one matrix."""
    flat = lambda a: a.reshape(-1, a.shape[-1])  # noqa: E731
    return errors({part: (flat(a), flat(b)) for part, a, b in zip(PARTS, got, want)})
