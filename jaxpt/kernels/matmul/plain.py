"""In the dtype of the factors, on every platform."""

import functools

import jax
import jax.numpy as jnp

from jaxpt.kernels.matmul.axes import first, last
from jaxpt.kernels.matmul.call import MatmulCall, contracted
from jaxpt.sharding.platform import platform


def refuses(call: MatmulCall) -> str | None:
    """Takes every call."""
    return None


def run(equation: str, x: jax.Array, w: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.matmul.dispatch.matmul` defines it."""
    if platform() == "cpu":
        return _product(x, w, contracted(equation), precision)
    return jnp.einsum(equation, x, w, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: jax.Array, w: jax.Array, inner: int, precision: jax.lax.Precision | None) -> jax.Array:
    """`x [..., *K]` times `w [*K, *N]`, whose gradient of w multiplies x by the product's gradient, in this order.

    JAX's own rule multiplies them the other way round and transposes what comes out; on CPUs XLA then writes the
    gradient, the wider of the two in most products, transposed, and transposes the result again.
    """
    return jax.lax.dot_general(x, w, ((last(x.ndim, inner), first(inner)), ((), ())), precision=precision)


def _forward(
    x: jax.Array, w: jax.Array, inner: int, precision: jax.lax.Precision | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, w, inner, precision), (x, w)


def _backward(
    inner: int, precision: jax.lax.Precision | None, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = saved
    outer, rows = w.ndim - inner, first(x.ndim - inner)
    dot = functools.partial(jax.lax.dot_general, precision=precision)
    dx = dot(g, w, ((last(g.ndim, outer), last(w.ndim, outer)), ((), ())))
    return dx, dot(x, g, ((rows, rows), ((), ())))


_product.defvjp(_forward, _backward)
