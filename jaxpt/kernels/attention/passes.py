"""The two passes of a kernel as one differentiable function, whatever the kernel.

What the forward pass hands to the backward pass is the same for all: its arguments, the output, and the log of each
query's sum of exponentials. So one kernel's gradient may follow another's output, and a choice between two that is made
on the device (`either`) saves what either of them would; the derivative of `jax.lax.cond` itself saves both kernels'
residuals, those of the one not taken filled with zeros.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxpt.kernels.attention.call import Logits

KEPT = "attention_kernel"  # output and log-sum-exp, for remat policies that save by name

Gradients = tuple[jax.Array, jax.Array, jax.Array]
Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array]


class Forward(Protocol):
    """A kernel's forward pass over one device's rows and heads."""

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits
    ) -> tuple[jax.Array, jax.Array]:
        """Returns attention `[B, S, H, h]` in q's dtype, and the log of its softmax's denominators.

        These are float32 `[B, H, S]`, the natural logarithm of the sum over keys of exp(logit).
        """


class Backward(Protocol):
    """A kernel's backward pass over one device's rows and heads."""

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        segment_ids: jax.Array | None,
        out: jax.Array,
        log_sum: jax.Array,
        d_out: jax.Array,
        *,
        logits: Logits,
    ) -> Gradients:
        """Returns the gradients of q, k and v in their shapes and dtypes; `out` and `log_sum` as `Forward` gives."""


@dataclass(frozen=True)
class Passes:
    """A kernel's passes; functions of a module, so that equal ones are traced once."""

    forward: Forward
    backward: Backward


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, logits: Logits, passes: Passes
) -> jax.Array:
    """Returns attention of one device's rows and heads, `[B, S, H, h]`, differentiable in q, k and v.

    Args:
        q: `[B, S, H, h]`.
        k: `[B, S, K, h]`, H a multiple of K.
        v: `[B, S, K, h]`.
        segment_ids: `[B, S]` int, or None.
        logits: what is a logit, and which of them count.
        passes: of the kernel.
    """
    return passes.forward(q, k, v, segment_ids, logits=logits)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, logits: Logits, passes: Passes
) -> tuple[jax.Array, Residuals]:
    out, log_sum = (checkpoint_name(x, KEPT) for x in passes.forward(q, k, v, segment_ids, logits=logits))
    return out, (q, k, v, segment_ids, out, log_sum)


def _backward(logits: Logits, passes: Passes, residuals: Residuals, d_out: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, segment_ids, out, log_sum = residuals
    return (*passes.backward(q, k, v, segment_ids, out, log_sum, d_out, logits=logits), None)


attend.defvjp(_forward, _backward)


@functools.cache
def either(condition: Callable[[jax.Array], jax.Array], yes: Passes, no: Passes) -> Passes:
    """Returns passes of packed rows that are `yes`'s where `condition(segment_ids)`, a bool scalar, and `no`'s else.

    Both passes ask the same condition, on the device.
    """

    def forward(
        q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits
    ) -> tuple[jax.Array, jax.Array]:
        first, second = (functools.partial(x.forward, logits=logits) for x in (yes, no))
        assert segment_ids is not None
        chosen: tuple[jax.Array, jax.Array] = jax.lax.cond(condition(segment_ids), first, second, q, k, v, segment_ids)
        return chosen

    def backward(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        segment_ids: jax.Array | None,
        out: jax.Array,
        log_sum: jax.Array,
        d_out: jax.Array,
        *,
        logits: Logits,
    ) -> Gradients:
        first, second = (functools.partial(x.backward, logits=logits) for x in (yes, no))
        assert segment_ids is not None
        operands = q, k, v, segment_ids, out, log_sum, d_out
        chosen: Gradients = jax.lax.cond(condition(segment_ids), first, second, *operands)
        return chosen

    return Passes(forward, backward)
