"""A kernel against the reference at a run's own shapes and masks: one row of full length, one kv head, its queries."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.attention import xla
from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.dispatch import IMPLEMENTATIONS
from jaxpt.kernels.comparison import Comparison, Errors, allowed, errors, judged

CHUNK = 1024  # queries of the reference at a time: it must not need the memory of S × S logits
PARTS = ("out", "dq", "dk", "dv")
FEW, SHORT = 5, 64  # documents of the one row at most, and the mean length of those of the other

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def compare(name: str, call: Call, logits: Logits) -> Comparison:
    """Compares the kernel `name` with the reference on this process's device.

    `call` is what the run computes; of its batch and its heads one row and one kv head are taken. A packed call is
    compared on two rows, one of few documents and one of many.

    Raises:
        Exception: whatever the kernel or the compiler raises.
    """
    return judged((_one(name, call, logits, ids) for ids in _rows_of_documents(call)), "xla")


def facts(call: Call, logits: Logits) -> dict[str, Any]:
    """Returns what a comparison depends on: the call of one row and one kv head, and how logits come about."""
    return {**asdict(replace(call, batch=1, heads=call.heads // call.kv_heads, kv_heads=1)), "scale": logits.scale}


def documents(length: int, mean: int, seed: int = 0) -> np.ndarray:
    """Returns ids `[1, length]` int32 of documents of random lengths around `mean`, the end of one padding."""
    rng, ids, at, number = np.random.default_rng(seed), np.zeros((1, length), np.int32), 0, 1
    while at < length:
        size = int(rng.integers(max(1, mean // 2), mean + mean // 2 + 1))
        ids[0, at : at + size] = number
        at, number = at + size, number + 1
    ids[0, length - max(1, min(mean, length) // 8) :] = 0
    return ids


def halving_documents(length: int, window: int | None) -> np.ndarray:
    """Returns ids `[1, length]` int32 of documents each half as long as the one before, the last part padding.

    The first is long enough for a window to hide some of it; at most `FEW` and padding.
    """
    ids, at = np.zeros((1, length), np.int32), 0
    share = 2 if window is None or window < length // 4 else 1.2
    for number in range(1, FEW + 1):
        size = int((length - at) / share) | 1  # odd: no edge of a block
        ids[0, at : at + size] = number
        at += size
    ids[0, -1:] = 0
    return ids


def _rows_of_documents(call: Call) -> Iterator[np.ndarray | None]:
    if not call.segments:
        yield None
        return
    yield halving_documents(call.queries, call.window)
    yield documents(call.queries, min(SHORT, max(1, call.queries // FEW)))


def _one(name: str, call: Call, logits: Logits, ids: np.ndarray | None) -> tuple[Errors, Errors]:
    s, group, hd = call.queries, call.heads // call.kv_heads, call.head_dim
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(1, s, n, hd)).astype(np.float32) for n in (group, 1, 1, group)]
    rounded = [jnp.asarray(x, call.dtype) for x in arrays]
    exact = [x.astype(jnp.float32) for x in rounded]
    segments = None if ids is None else jnp.asarray(ids)
    float32 = Logits(logits.scale, logits.window, logits.softcap, jax.lax.Precision.HIGHEST)
    kernel = IMPLEMENTATIONS[name]
    run = jax.jit(_with_gradients, static_argnums=0)
    want = run(functools.partial(_reference, logits=float32), *exact, segments)
    got = run(functools.partial(_by, kernel.run, logits), *rounded, segments)
    own = run(functools.partial(_reference, logits=logits), *rounded, segments) if call.dtype != "float32" else want
    return _errors(got, want), allowed(_errors(own, want))


def _by(
    run: Callable[..., jax.Array],
    logits: Logits,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
) -> jax.Array:
    return run(q, k, v, logits, segment_ids)


def _reference(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits) -> jax.Array:
    """`xla`, some queries at a time."""
    s = q.shape[1]
    chunk = min(CHUNK, s)
    count = math.ceil(s / chunk)
    index = jnp.minimum(jnp.arange(count * chunk), s - 1).reshape(count, 1, chunk)  # the last repeats a query

    def some(at: jax.Array) -> jax.Array:
        ids = None if segment_ids is None else segment_ids[:, at[0]]
        return xla.rows(q[:, at[0]], k, v, logits, ids, segment_ids, at)

    out = jax.lax.map(jax.checkpoint(some), index)  # [count, 1, chunk, G, h]
    return out.swapaxes(0, 1).reshape(1, count * chunk, *q.shape[2:])[:, :s]


def _with_gradients(
    attend: Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    d_out: jax.Array,
    segment_ids: jax.Array | None,
) -> tuple[jax.Array, ...]:
    out, back = jax.vjp(lambda q, k, v: attend(q, k, v, segment_ids), q, k, v)
    return (out, *back(d_out.astype(out.dtype)))


def _errors(got: tuple[jax.Array, ...], want: tuple[jax.Array, ...]) -> Errors:
    return errors({part: (a[0], b[0]) for part, a, b in zip(PARTS, got, want)})
