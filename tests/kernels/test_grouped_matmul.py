"""All grouped matmuls compute the dense reference, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.grouped_matmul import grouped_matmul

SIZES = {"even": [10, 10, 10, 10], "skewed": [37, 0, 2, 1], "empty_ends": [0, 40, 0, 0], "rows_left": [5, 9, 0, 3]}


def parts():
    keys = jax.random.split(jax.random.key(0), 3)
    return (jax.random.normal(k, s) for k, s in zip(keys, [(40, 8), (4, 8, 6), (40, 6)]))


def value_and_grads(name, sizes):
    x, w, dy = parts()

    def f(x, w):
        y = grouped_matmul(x, w, jnp.array(sizes), implementation=name, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(y * dy), y

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x, w)


@pytest.mark.parametrize("name", ["tiled", "ragged_dot", "auto", "megablox"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_value_and_gradients_are_the_dense_reference(name, sizes):
    for a, b in zip(jax.tree.leaves(value_and_grads(name, sizes)), jax.tree.leaves(value_and_grads("dense", sizes))):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_another_split_of_the_rows_is_another_product():  # the proof above can fail
    a, b = (value_and_grads("tiled", SIZES[n])[0][1] for n in ("even", "skewed"))
    assert not np.allclose(a, b, atol=1e-2)
