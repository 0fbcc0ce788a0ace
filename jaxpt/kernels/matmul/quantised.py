"""A product of two quantised factors and its two gradients, each of which is one, too."""

import functools
from collections.abc import Callable

import jax
from jax.typing import DTypeLike

from jaxpt.kernels.matmul.axes import first, last
from jaxpt.kernels.matmul.scaling import GRADIENTS, VALUES, Quantised, quantise

SummedAxes = tuple[tuple[int, ...], tuple[int, ...]]  # that are summed over, of either factor

# two factors, the axes, the dtype of the product, whether every partial sum is kept in float32 -> the product
Dot = Callable[[Quantised, Quantised, SummedAxes, DTypeLike, bool], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def quantised_product(x: jax.Array, w: jax.Array, inner: int, dot: Dot) -> jax.Array:
    """Returns `[..., *N]` in x's dtype: `x [..., *K]` times `w [*K, *N]`, both in `VALUES`, by `dot`.

    The gradient of the product is quantised to `GRADIENTS` once for both gradients. x is kept in 8 bits for the
    backward pass, w as it is: it is kept anyway, and few bytes beside activations.

    Args:
        x: activations.
        w: a matrix, in the same dtype.
        inner: dimensions of K.
        dot: multiplies.
    """
    return _forward(x, w, inner, dot)[0]


def _forward(x: jax.Array, w: jax.Array, inner: int, dot: Dot) -> tuple[jax.Array, tuple[Quantised, jax.Array]]:
    qx, qw = quantise(x, VALUES), quantise(w, VALUES)
    return dot(qx, qw, (last(x.ndim, inner), first(inner)), x.dtype, False), (qx, w)


def _backward(inner: int, dot: Dot, saved: tuple[Quantised, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    qx, w = saved
    qw, qg = quantise(w, VALUES), quantise(g, GRADIENTS)
    outer, rows = w.ndim - inner, g.ndim - (w.ndim - inner)
    dx = dot(qg, qw, (last(g.ndim, outer), last(w.ndim, outer)), g.dtype, True)
    dw = dot(qx, qg, (first(rows), first(rows)), w.dtype, True)
    return dx, dw


quantised_product.defvjp(_forward, _backward)
