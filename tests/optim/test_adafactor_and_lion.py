"""Adafactor and Lion: optax's numbers, of the matrices that fan in and fan out name."""

import jax
import numpy as np
import optax

from jaxpt.models.specs import ParamSpec, flatten
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adafactor import Adafactor
from jaxpt.optim.optimizers.lion import Lion
from tests.optim.made import SPECS

Q = ParamSpec((8, 4, 4), ("embed", "heads", "head_dim"), ("embed",), ("heads", "head_dim"))


def last(update, state, gradients, params):
    for g in gradients:
        updates, state = update(g, state, params)
    return updates


def assert_same_updates(config, theirs, view, rtol=1e-5):
    """Directions of `config` for q against an optax chain over q seen as `view`."""
    params = {"q": 0.1 * jax.random.normal(jax.random.key(9), Q.shape)}
    gradients = [{"q": jax.random.normal(jax.random.key(i), Q.shape)} for i in range(3)]
    optimizer = make_optimizer(config, {"q": Q})
    ours = last(jax.jit(optimizer.update), optimizer.init(params), gradients, params)["q"]
    flat = [{"q": g["q"].reshape(view)} for g in gradients]
    params = {"q": params["q"].reshape(view)}
    np.testing.assert_allclose(
        ours, last(theirs.update, theirs.init(params), flat, params)["q"].reshape(Q.shape), rtol=rtol, atol=1e-6
    )


def by_optax(momentum=None):
    """`optax.adafactor`, without the learning rate and with the sign of a direction."""
    return optax.chain(optax.adafactor(1.0, 8, multiply_by_parameter_scale=True, momentum=momentum), optax.scale(-1.0))


def test_adafactor_is_that_of_optax_over_the_matrix_of_fan_in_and_fan_out():
    config = Adafactor(clip_norm=None, weight_decay=0.0, smallest=8, by_parameter_scale=True)
    assert_same_updates(config, by_optax(), (8, 16))


def test_adafactor_keeps_momentum_as_optax_does():
    config = Adafactor(clip_norm=None, weight_decay=0.0, smallest=8, by_parameter_scale=True, momentum=0.9)
    assert_same_updates(config, by_optax(0.9), (8, 16))


def test_factoring_heads_for_themselves_would_be_seen():  # the proofs above can fail
    config = Adafactor(clip_norm=None, weight_decay=0.0, smallest=4, by_parameter_scale=True)
    theirs = optax.chain(optax.adafactor(1.0, 4, multiply_by_parameter_scale=True), optax.scale(-1.0))
    try:
        assert_same_updates(config, theirs, Q.shape, rtol=1e-2)
    except AssertionError:
        return
    raise AssertionError("a factored [embed, heads, head_dim] gives the same")


def test_adafactors_rows_and_columns_follow_the_first_axis_of_each_side():
    specs = make_optimizer(Adafactor(smallest=8), SPECS).state_specs
    rows, columns = flatten(specs["v_row"]), flatten(specs["v_col"])
    assert (rows["blocks/dense/q"].axes, columns["blocks/dense/q"].axes) == (("layers", "embed"), ("layers", "heads"))
    assert (rows["blocks/dense/q"].shape, columns["blocks/dense/q"].shape) == ((1, 8), (1, 16))
    assert rows["blocks/moe/expert_down"].axes == ("layers", "experts", "embed")  # optax's rows: the shorter side
    assert flatten(specs["v"])["blocks/dense/q"].shape == (1, 1)
    assert flatten(specs["v"])["blocks/dense/attn_norm"].axes == ("layers", "embed")


def test_lion_is_that_of_optax():
    theirs = optax.chain(optax.lion(1.0, 0.8, 0.97, weight_decay=0.0), optax.scale(-1.0))
    assert_same_updates(Lion(clip_norm=None, weight_decay=0.0, beta1=0.8, beta2=0.97), theirs, Q.shape)
