"""The product with the head, whose logits are float32 and whose gradient is multiplied in the streams' dtype."""

import functools

import jax
import jax.numpy as jnp


def head_product(x: jax.Array, head: jax.Array, tied: bool, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns float32 logits `[..., V]` of streams `x [..., D]` and the head, `[V, D]` if tied, else `[D, V]`.

    Where x is rounded, so is the gradient of the logits before it is multiplied: float32 times bfloat16 is a product in
    TF32 on a GPU, at half the speed, of factors one of which is rounded anyway.
    """
    return _plain(x, head, tied, precision) if x.dtype == jnp.float32 else _rounded(x, head, tied, precision)


def _plain(x: jax.Array, head: jax.Array, tied: bool, precision: jax.lax.Precision | None) -> jax.Array:
    equation = "...d,vd->...v" if tied else "...d,dv->...v"
    return jnp.einsum(equation, x, head, precision=precision, preferred_element_type=jnp.float32)


_rounded = functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))(_plain)


def _forward(
    x: jax.Array, head: jax.Array, tied: bool, precision: jax.lax.Precision | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, head, tied, precision), (x, head)


def _backward(
    tied: bool, precision: jax.lax.Precision | None, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, head = saved
    g = g.astype(x.dtype)
    product = functools.partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    rows = "abcefg"[: x.ndim - 1]
    dx = product("...v,vd->...d" if tied else "...v,dv->...d", g, head)
    d_head = product(f"{rows}v,{rows}d->vd" if tied else f"{rows}d,{rows}v->dv", *((g, x) if tied else (x, g)))
    return dx.astype(x.dtype), d_head.astype(head.dtype)


_rounded.defvjp(_forward, _backward)
