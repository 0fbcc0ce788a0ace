"""Grouped matrix product of experts: jaxpt's implementations and tokamax's, forward and backward, uneven groups."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.attention_calls import load_tokamax
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections.kernels import errors
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import compiled, seconds_per_call
from jaxpt.kernels.grouped_matmul import grouped_matmul

Product = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def measure(sizes: Sizes, rows: Rows) -> None:
    """Times each and compares it with a loop over the groups in float32."""
    calls: dict[str, Product] = {"auto": grouped_matmul, "ragged_dot": jax.lax.ragged_dot}
    if jax.default_backend() == "gpu":
        calls |= {
            "tokamax mosaic": functools.partial(_tokamax, "mosaic"),
            "tokamax triton": functools.partial(_tokamax, "triton"),
        }
    for name, call in calls.items():
        rows.measure(f"grouped product {name}", 12, functools.partial(run, sizes, call))


def _tokamax(implementation: str, x: jax.Array, w: jax.Array, groups: jax.Array) -> jax.Array:
    out: jax.Array = load_tokamax().ragged_dot(x, w, groups, implementation=implementation)
    return out


def made(sizes: Sizes) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rows `[M, K]`, matrices `[E, K, N]`, uneven group sizes `[E]` int32 that sum to M, and a gradient `[M, N]`."""
    m, e, k, n = sizes.experts
    shares = np.random.default_rng(0).dirichlet(np.full(e, 4.0))
    groups = np.floor(shares * m).astype(np.int32)
    groups[0] += m - groups.sum()
    x, g = (jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate(((m, k), (m, n))))
    w = (jax.random.normal(jax.random.key(2), (e, k, n)) * k**-0.5).astype(jnp.bfloat16)
    return x, w, jnp.asarray(groups), g


def run(sizes: Sizes, call: Product) -> dict[str, Any]:
    """Forward, and forward and backward; operations are those of the rows that there are."""
    x, w, groups, g = made(sizes)
    m, _, k, n = sizes.experts

    def both(x: jax.Array, w: jax.Array, groups: jax.Array, g: jax.Array) -> Any:
        out, back = jax.vjp(lambda x, w: call(x, w, groups), x, w)
        return out, back(g)

    forward, _ = compiled(call, x, w, groups)
    everything, compile_s = compiled(both, x, w, groups, g)
    out, (dx, dw) = everything()
    want = reference(x, w, groups, g)
    found = errors((out, dx, dw), want)
    out_s, both_s = (seconds_per_call(one, sizes)[0] for one in (forward, everything))
    rate = lambda products, s: 2 * products * m * k * n / s / 1e12  # noqa: E731
    return {"forward_ms": out_s * 1e3, "forward_tflops": rate(1, out_s), "both_ms": both_s * 1e3,
            "both_tflops": rate(3, both_s), "error": max(found), "compile_s": compile_s}  # fmt: skip


def reference(x: jax.Array, w: jax.Array, groups: jax.Array, g: jax.Array) -> Any:
    """Output and gradients, one group after the other, in float32."""
    first, outs, dxs, dws = 0, [], [], []
    for i, size in enumerate(np.asarray(groups)):
        part = slice(first, first + int(size))
        xs, gs, ws = (a.astype(jnp.float32) for a in (x[part], g[part], w[i]))
        for parts, a, b in ((outs, xs, ws), (dxs, gs, ws.T), (dws, xs.T, gs)):
            parts.append(jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST))
        first += int(size)
    return jnp.concatenate(outs), jnp.concatenate(dxs), jnp.stack(dws)
