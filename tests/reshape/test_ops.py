"""The ops by themselves: numpy and jax agree, split shards add up to the network, moments of a mix fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.reshape.ops import Mix, Repeat, Scale, Split, Take

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 8)).astype(np.float32)
OPS = {
    "take": Take(1, np.array([5, 0, -1, 2])),
    "take by head": Take(2, RNG.integers(0, 8, (6, 3)), 1),
    "take by a later dimension": Take(0, RNG.integers(0, 4, (8, 3)), 2),
    "scale": Scale(2, np.arange(8, dtype=np.float32)),
    "scale with offset": Scale(2, np.arange(8, dtype=np.float32), 1.0),
    "mix": Mix(1, 2, RNG.normal(size=(10, 48)).astype(np.float32), (2, 5)),
    "split": Split(2, 4, 0),
    "repeat": Repeat(3, 0),
}


@pytest.mark.parametrize("name", OPS)
def test_numpy_and_jax_compute_the_same_and_the_declared_shape(name):
    op = OPS[name]
    host, device = op.on(X, op.table(None)), jax.jit(lambda x: op.on(x, op.table(None)))(jnp.asarray(X))
    assert host.shape == device.shape == op.shape(X.shape)
    np.testing.assert_allclose(host, device, rtol=1e-5, atol=1e-5)


def test_shards_of_any_permutation_of_the_neurons_add_up_to_the_network():
    gate, up, down = (RNG.normal(size=s) for s in ((6, 12), (6, 12), (12, 6)))
    order = RNG.permutation(12)
    x = RNG.normal(size=(5, 6))

    def ffn(g, u, d):
        return (np.maximum(x @ g, 0) * (x @ u)) @ d

    columns = [Split(1, 3, 0).on(Take(1, order).on(w, order), None) for w in (gate, up)]
    rows = Split(0, 3, 0).on(Take(0, order).on(down, order), None)
    np.testing.assert_allclose(sum(ffn(*shard) for shard in zip(*columns, rows)), ffn(gate, up, down))
    wrong = Split(0, 3, 0).on(down, None)  # the proof can fail: down must follow
    assert not np.allclose(sum(ffn(*shard) for shard in zip(*columns, wrong)), ffn(gate, up, down))


def test_the_gradient_of_a_mean_is_the_sum_over_what_was_pooled():
    pool = Mix(0, 1, np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], np.float32), (2,))
    got = pool.moment(1).on(X, pool.moment(1).table(None))
    np.testing.assert_allclose(got, X.reshape(2, 2, 6, 8).sum(1), rtol=1e-5, atol=1e-6)


def test_a_split_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="length 8 is not a multiple of 3"):
        Split(2, 3, 0).shape(X.shape)
