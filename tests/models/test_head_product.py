"""The product with the head: float32 as ever, bfloat16 with a gradient that is multiplied in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models.head_product import head_product

D, V = 16, 24


def operands(tied, dtype):
    x = jax.random.normal(jax.random.key(0), (2, 3, D)).astype(dtype)
    head = jax.random.normal(jax.random.key(1), (V, D) if tied else (D, V)).astype(dtype)
    return x, head, jax.random.normal(jax.random.key(2), (2, 3, V))


def gradients(tied, dtype):
    x, head, g = operands(tied, dtype)
    out, back = jax.vjp(lambda x, head: head_product(x, head, tied, None), x, head)
    assert out.dtype == jnp.float32
    return out, *back(g)


@pytest.mark.parametrize("tied", [True, False])
def test_rounded_gradients_are_those_of_float64_up_to_rounding(tied):
    x, head, g = (np.asarray(a.astype(jnp.float32), np.float64) for a in operands(tied, jnp.bfloat16))
    flat, rows = g.reshape(-1, V), x.reshape(-1, D)
    out = x @ (head.T if tied else head)
    dx = g @ (head if tied else head.T)
    d_head = flat.T @ rows if tied else rows.T @ flat
    for found, want in zip(gradients(tied, jnp.bfloat16), (out, dx, d_head)):
        error = np.linalg.norm(np.asarray(found.astype(jnp.float32)) - want) / np.linalg.norm(want)
        assert error < 0.01


@pytest.mark.parametrize("tied", [True, False])
def test_float32_keeps_its_bits(tied):
    x, head, g = operands(tied, jnp.float32)
    equation = "...d,vd->...v" if tied else "...d,dv->...v"
    _, back = jax.vjp(lambda x, head: jnp.einsum(equation, x, head, preferred_element_type=jnp.float32), x, head)
    for found, want in zip(gradients(tied, jnp.float32)[1:], back(g)):
        np.testing.assert_array_equal(found, want)


def products(function, tied):
    """Dtypes of the operands of every product in the gradient."""
    x, head, g = operands(tied, jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda x, head, g: jax.vjp(function, x, head)[1](g))(x, head, g)
    found, todo = [], [jaxpr.jaxpr]
    while todo:
        for eqn in todo.pop().eqns:
            if eqn.primitive.name == "dot_general":
                found.append({v.aval.dtype for v in eqn.invars})
            inner = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
            todo += [value for value in inner if hasattr(value, "eqns")]
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_no_product_mixes_float32_and_bfloat16_and_a_plain_einsum_would_be_noticed(tied):
    only = [{jnp.dtype(jnp.bfloat16)}]
    mine = products(lambda x, head: head_product(x, head, tied, None), tied)
    assert len(mine) == 3
    assert all(dtypes in only for dtypes in mine)
    equation = "...d,vd->...v" if tied else "...d,dv->...v"
    plain = products(lambda x, h: jnp.einsum(equation, x, h, preferred_element_type=jnp.float32), tied)
    assert not all(dtypes in only for dtypes in plain)
