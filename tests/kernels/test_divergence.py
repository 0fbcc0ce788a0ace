"""Divergences against their definitions in float64, their limits, and their gradients where both models agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.divergence import DIVERGENCES, forward_kl

V = 29


def logits(seed, scale=3.0):
    return scale * jax.random.normal(jax.random.key(seed), (5, V))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_definition(name, teacher, student):
    p, q = (softmax(np.asarray(x, np.float64)) for x in (teacher, student))
    kl = lambda a, b: (a * np.log(a / b)).sum(-1)  # noqa: E731
    m = (p + q) / 2
    return {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jensen_shannon": (kl(p, m) + kl(q, m)) / 2}[name]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_values_are_those_of_the_definition(name):
    np.testing.assert_allclose(DIVERGENCES[name](logits(0), logits(1)), by_definition(name, logits(0), logits(1)), 1e-5)


def test_the_definitions_differ():  # the comparison above can fail
    values = {name: by_definition(name, logits(0), logits(1)).sum() for name in DIVERGENCES}
    assert min(abs(a - b) for n, a in values.items() for m, b in values.items() if n < m) > 0.1


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(name):
    with jax.enable_x64(True):
        teacher, student = (jnp.asarray(np.asarray(logits(s)), jnp.float64) for s in (0, 1))
        value = lambda s: jnp.sum(DIVERGENCES[name](teacher, s))  # noqa: E731
        direction = jax.random.normal(jax.random.key(2), student.shape, jnp.float64)
        slope = (value(student + 1e-5 * direction) - value(student - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(jnp.sum(jax.grad(value)(student) * direction), slope, rtol=1e-7)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_model_and_itself_have_no_divergence_and_no_gradient(name):
    same = logits(0)
    value, grad = jax.value_and_grad(lambda s: jnp.sum(DIVERGENCES[name](same, s)))(same)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)
    if name == "forward_kl":
        assert value == 0
        assert not grad.any()


def test_jensen_shannon_is_bounded_where_the_models_exclude_each_other():
    far = 200 * jnp.eye(V)[:2]
    np.testing.assert_allclose(DIVERGENCES["jensen_shannon"](far[:1], far[1:]), np.log(2), rtol=1e-6)


def test_at_a_high_temperature_the_gradient_is_that_of_centred_logits():
    """T² KL → |s - t|² / 2V of centred logits (Hinton et al. 2015, section 2.1)."""
    with jax.enable_x64(True):
        teacher, student = (jnp.asarray(np.asarray(logits(s)), jnp.float64) for s in (0, 1))
        centred = [x - x.mean(-1, keepdims=True) for x in (teacher, student)]
        limit, errors = (centred[1] - centred[0]) / V, []
        for t in (1e2, 1e4):
            grad = jax.grad(lambda s, t=t: t**2 * jnp.sum(forward_kl(teacher / t, s / t)))(student)
            errors.append(float(jnp.abs(grad - limit).max()))
    assert errors[1] < 1e-3 * float(jnp.abs(limit).max())
    assert errors[1] < errors[0] / 50  # it is a limit, and not yet reached at 100
