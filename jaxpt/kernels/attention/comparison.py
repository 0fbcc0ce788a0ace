"""A kernel against the reference at a run's own shapes and masks: one row of full length, one kv head, its queries.

Errors are those of a bfloat16 computation, so what is allowed is measured too: three times the error of the reference
itself in the kernel's dtype, against the reference in float32.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.attention import xla
from jaxpt.kernels.attention.call import Call, Logits
from jaxpt.kernels.attention.dispatch import IMPLEMENTATIONS

ALLOWED = 3.0  # times the reference's own error
LEAST = 1e-4  # of float32 kernels, whose reference has none
CHUNK = 1024  # queries of the reference at a time: it must not need the memory of S × S logits
PARTS = ("out", "dq", "dk", "dv")
FEW, SHORT = 5, 64  # documents of the one row at most, and the mean length of those of the other

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Errors = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Of one kernel at one call: error and allowance by part and measure; `reason` says why it is refused."""

    errors: Errors
    allowed: Errors
    reason: str | None


def compare(name: str, call: Call, logits: Logits) -> Comparison:
    """Compares the kernel `name` with the reference on this process's device.

    `call` is what the run computes; of its batch and its heads one row and one kv head are taken. A packed call is
    compared on two rows, one of few documents and one of many.

    Raises:
        Exception: whatever the kernel or the compiler raises.
    """
    worst: Errors = {}
    most: Errors = {}
    for ids in _rows_of_documents(call):
        measured, allowed = _one(name, call, logits, ids)
        for key in measured:
            if key not in worst or measured[key] / allowed[key] > worst[key] / most[key]:
                worst[key], most[key] = measured[key], allowed[key]
    key = max(worst, key=lambda k: worst[k] / most[k])
    wrong = not worst[key] <= most[key]  # NaN is wrong
    reason = f"it differs from 'xla': error {worst[key]:.2g} of {key}, allowed is {most[key]:.2g}" if wrong else None
    return Comparison(worst, most, reason)


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
    measured, error = _errors(got, want), _errors(own, want)
    return measured, {key: max(ALLOWED * error[key], LEAST) for key in error}


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
    """Two measures of each part: the largest error, of the largest value; and the root mean square over positions of
    the error there, of the size there, by which a mask that is off by one shows in long rows, too.
    """
    out = {}
    for part, a, b in zip(PARTS, got, want):
        x, y = np.asarray(a, np.float64)[0], np.asarray(b, np.float64)[0]
        size = np.sqrt((y**2).sum((1, 2)))
        floor = np.sqrt(np.mean(size**2)) * 1e-2  # of some positions the gradient is none
        relative = np.sqrt(((x - y) ** 2).sum((1, 2))) / np.maximum(size, max(floor, 1e-30))
        out[f"{part} (largest)"] = float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30))
        out[f"{part} (by position)"] = float(np.sqrt(np.mean(relative**2)))
    return out
