"""Draws follow the distribution; the gradient of sampled distillation is that of the whole distribution in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.data.targets import TargetKind, counted, likeliest, widened
from jaxpt.kernels import sparse_targets
from jaxpt.kernels.sparse_targets import sparse_cross_entropy

V, N, TRIALS = 23, 50, 4000
TEACHER = 1.7 * jax.random.normal(jax.random.key(0), (V,))
STUDENT = 1.7 * jax.random.normal(jax.random.key(1), (V,))
P, Q = (np.asarray(jax.nn.softmax(x), np.float64) for x in (TEACHER, STUDENT))


def draws(trials=TRIALS, seed=2):
    uniform = jax.random.uniform(jax.random.key(seed), (trials, N))
    return jax.jit(sparse_targets.draw)(jnp.broadcast_to(TEACHER, (trials, V)), uniform)


def stored(drawn, kind=TargetKind("sampled", N, V)):  # noqa: B008
    """What a cache gives back of draws `[T, N]`: ids, weights, entropy."""
    real = np.ones(len(drawn.ids), bool)
    row = counted(np.asarray(drawn.ids), np.asarray(drawn.entropy), real)
    return widened([row], kind, N)


def loss(student, ids, weights):
    return sparse_cross_entropy(student, jax.nn.logsumexp(student), ids, weights)


def values_and_gradients(arrays):
    one = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0, 0))
    return [np.asarray(a, np.float64) for a in jax.jit(one)(STUDENT, arrays.ids[0], arrays.weights[0])]


def off_by(samples, truth):
    """By how many standard errors the mean of `samples [T, …]` differs, the worst entry of them."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return np.abs((samples.mean(axis=0) - truth) / error)


def test_the_gradient_of_sampled_distillation_is_that_of_the_whole_distribution_within_three_standard_errors():
    arrays = stored(draws())
    values, gradients = values_and_gradients(arrays)
    assert off_by(gradients, Q - P).max() < 3
    kl = float(np.sum(P * np.log(P / Q)))
    assert off_by(values - arrays.entropy[0], kl) < 3 + 1e-3 * np.sqrt(TRIALS)  # the entropy's 11 bits are no chance
    assert np.abs(values.mean() - arrays.entropy[0].mean() - kl) < 2e-2


def test_renormalised_likeliest_ids_are_biased():  # the proof above can fail
    arrays = stored(draws())
    top = np.argsort(-P)[:5]
    weights = np.where(np.isin(arrays.ids, top), arrays.weights, 0)
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9)
    _, gradients = values_and_gradients(arrays._replace(weights=weights.astype(np.float32)))
    assert off_by(gradients, Q - P).max() > 10


def test_ids_are_drawn_as_often_as_they_are_likely():
    ids = np.asarray(draws(seed=3).ids)
    count = np.bincount(ids.ravel(), minlength=V)
    spread = np.sqrt(ids.size * P * (1 - P))
    assert (np.abs(count - ids.size * P) < 4 * spread).all()


def test_what_cannot_be_is_never_drawn():
    logits = jnp.full((400, 1000), -jnp.inf).at[:, 700:703].set(0.0)
    ids = sparse_targets.draw(logits, jax.random.uniform(jax.random.key(4), (400, N))).ids
    assert set(np.unique(ids)) == {700, 701, 702}
    edge = sparse_targets.draw(logits[:1], jnp.array([[0.0, 1 - 2**-23]])).ids
    np.testing.assert_array_equal(edge, [[700, 702]])


def test_entropy_is_that_of_the_distribution():
    np.testing.assert_allclose(draws(4).entropy, -np.sum(P * np.log(P)), rtol=1e-5)


def top_k(k):
    kept = sparse_targets.likeliest(TEACHER[None], k)
    row = likeliest(*(np.asarray(a) for a in kept), np.ones(1, bool))
    return widened([row], TargetKind("top_k", k, V), k)


@pytest.mark.parametrize("k", [1, 5, V])
def test_the_likeliest_ids_and_all_others_as_one_event_have_the_divergence_of_those_events(k):
    arrays = top_k(k)
    order = np.argsort(-P)
    np.testing.assert_array_equal(arrays.ids[0, 0], order[:k])
    np.testing.assert_allclose(arrays.weights[0, 0], P[order[:k]], rtol=3e-4)
    events = [np.append(x[order[:k]], max(x[order[k:]].sum(), 1e-300)) for x in (P, Q)]
    want = float(np.sum(events[0] * np.log(events[0] / events[1])))
    got = loss(STUDENT, arrays.ids[0, 0], arrays.weights[0, 0]) - arrays.entropy[0, 0]
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_all_others_as_one_event_do_not_sharpen_a_student_that_agrees_with_its_teacher():
    arrays = top_k(5)
    ids, weights = arrays.ids[0, 0], arrays.weights[0, 0]
    assert np.abs(jax.grad(loss)(TEACHER, ids, weights)).max() < 1e-3
    assert np.abs(jax.grad(loss)(TEACHER, ids, weights / weights.sum())).max() > 3e-2  # made to sum to 1 they do


def test_a_position_without_ids_has_no_loss_and_no_gradient():
    value, gradient = jax.value_and_grad(loss)(STUDENT, jnp.zeros(4, jnp.int32), jnp.zeros(4))
    assert value == 0
    assert not np.asarray(gradient).any()
