"""Attention: every implementation against the reference, then its time in each mask; and the card's matmul ceiling."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import attention_calls
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import Sizes, documents, visible_pairs
from benchmarks.gpu.timing import compiled, seconds_per_call

Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # q, k, v, and the gradient of the output


def measure(sizes: Sizes, rows: Rows) -> None:
    """The ceiling first: every other figure is read against it."""
    ceilings(sizes, rows)
    calls = {**attention_calls.ours(), **(attention_calls.LIBRARIES if jax.default_backend() == "gpu" else {})}
    right = compare(sizes, rows, calls)
    for mask, name in ((m, n) for m in masks(sizes) for n in calls):
        if name != "xla" and (name, mask) in right:
            for what in ("forward", "forward+backward"):
                rows.measure(f"{mask} {name} {what}", 8, functools.partial(cell, sizes, calls[name], mask, what))
    for mask in masks(sizes):
        if "xla" in calls:
            one = functools.partial(cell, sizes, calls["xla"], mask, "forward+backward")
            rows.measure(f"{mask} xla forward+backward", 12, one)


def masks(sizes: Sizes) -> dict[str, tuple[bool, int | None]]:
    """Whether rows hold packed documents, and the window, by name."""
    return {"causal": (False, None), "documents": (True, None), "window": (False, sizes.window)}


def made(sizes: Sizes, rows: int, dtype: Any = jnp.bfloat16, heads: tuple[int, int] | None = None) -> Inputs:
    """Random queries, keys, values and an output's gradient."""
    m = sizes.model
    h, kv = heads or (m.heads, m.kv_heads)
    shapes = [(rows, sizes.sequence, n, m.head_dim) for n in (h, kv, kv, h)]
    q, k, v, g = (jax.random.normal(jax.random.key(i), s, jnp.float32).astype(dtype) for i, s in enumerate(shapes))
    return q, k, v, g


def both(call: Callable[..., jax.Array], ids: jax.Array | None, window: int | None) -> Callable[..., Any]:
    """Output and gradients by q, k, v."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> Any:
        out, back = jax.vjp(lambda *x: call(*x, ids, window), q, k, v)
        return out, back(g)

    return run


def compare(sizes: Sizes, rows: Rows, calls: dict[str, Callable[..., jax.Array]]) -> set[tuple[str, str]]:
    """Compares each with float32 attention at the full row and one kv group; returns what may be timed.

    The allowed error is three times that of XLA's own bfloat16 attention.
    """
    group = (sizes.model.heads // sizes.model.kv_heads, 1)
    right: set[tuple[str, str]] = set()
    for mask, (packed, window) in masks(sizes).items():
        ids = jnp.asarray(documents(1, sizes.sequence, sizes.document)) if packed else None
        exact = made(sizes, 1, jnp.float32, group)
        exact = tuple(x.astype(jnp.bfloat16).astype(jnp.float32) for x in exact)  # type: ignore[assignment]
        rounded = tuple(x.astype(jnp.bfloat16) for x in exact)
        with jax.default_matmul_precision("highest"):
            want = jax.jit(both(calls["xla"], ids, window))(*exact)
        allowed = [3 * e for e in errors(jax.jit(both(calls["xla"], ids, window))(*rounded), want)]

        def one(call: Callable[..., jax.Array], want: Any = want, allowed: Any = allowed) -> dict[str, Any]:
            run, seconds = compiled(both(call, ids, window), *rounded)  # noqa: B023
            found = errors(run(), want)
            fine = all(e <= a for e, a in zip(found, allowed))
            parts = {f"error_{n}": e for n, e in zip(("out", "dq", "dk", "dv"), found)}
            return {"fits": fine, **parts, "allowed_out": allowed[0], "compile_s": seconds}

        for name, call in calls.items():
            result = rows.measure(f"compare {mask} {name}", 6, functools.partial(one, call))
            if result and result["fits"]:
                right.add((name, mask))
    return right


def errors(found: Any, want: Any) -> list[float]:
    """Relative error of output and gradients, ‖found - want‖ / ‖want‖, in float64; NaN counts as infinite."""
    out = []
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want)):
        x, y = (np.asarray(m.astype(jnp.float32), np.float64) for m in (a, b))
        error = float(np.linalg.norm(x - y) / np.linalg.norm(y))
        out.append(error if np.isfinite(error) else float("inf"))
    return out


def cell(sizes: Sizes, call: Callable[..., jax.Array], mask: str, what: str) -> dict[str, Any]:
    """Time of one mask; operations are those of the visible pairs, 4 h each, backward 2.5 times the forward."""
    packed, window = masks(sizes)[mask]
    inputs = made(sizes, sizes.attention_rows)
    segments = documents(sizes.attention_rows, sizes.sequence, sizes.document)
    ids = jnp.asarray(segments) if packed else None
    if what == "forward":
        run, compile_s = compiled(lambda q, k, v: call(q, k, v, ids, window), *inputs[:3])
    else:
        run, compile_s = compiled(both(call, ids, window), *inputs)
    seconds, spread = seconds_per_call(run, sizes)
    return {**rate(sizes, segments if packed else np.ones_like(segments), window, what, seconds), "spread": spread,
            "compile_s": compile_s}  # fmt: skip


def rate(sizes: Sizes, segments: np.ndarray, window: int | None, what: str, seconds: float) -> dict[str, float]:
    """Milliseconds and TFLOP/s by visible pairs."""
    m = sizes.model
    flops = visible_pairs(segments, window) * m.heads * m.head_dim * 4 * (1.0 if what == "forward" else 3.5)
    return {"ms": seconds * 1e3, "tflops": flops / seconds / 1e12}


def ceilings(sizes: Sizes, rows: Rows) -> None:
    """bfloat16 products: the square one, and those of the model at its batch."""
    for name, (m, k, n) in products(sizes):

        def one(m: int = m, k: int = k, n: int = n) -> dict[str, Any]:
            a, b = (jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate(((m, k), (k, n))))
            run, compile_s = compiled(lambda a, b: a @ b, a, b)
            seconds, spread = seconds_per_call(run, sizes)
            return {"tflops": 2 * m * k * n / seconds / 1e12, "ms": seconds * 1e3, "spread": spread,
                    "compile_s": compile_s}  # fmt: skip

        rows.measure(f"matmul {name} {m}x{k}x{n}", 6, one)


def products(sizes: Sizes) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """The shapes `(M, K, N)` of the products, by name."""
    c, tokens = sizes.model, sizes.batches[0] * sizes.sequence
    yield "square", (sizes.matmul,) * 3  # type: ignore[misc]
    yield "up", (tokens, c.embed, c.mlp)
    yield "down", (tokens, c.mlp, c.embed)
    yield "q", (tokens, c.embed, c.heads * c.head_dim)
    yield "up's gradient", (c.embed, tokens, c.mlp)
    yield "head", (tokens, c.embed, c.vocab_size)
