"""Freezing follows the axis table: what is frozen stays bit for bit, its gradient is never computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.specs import flatten, param_specs
from jaxpt.optim.chain import descend, global_norm, make_optimizer
from jaxpt.optim.freezing import keep_frozen, mask_gradients, stop_frozen, trainable
from jaxpt.optim.optimizers.adamw import AdamW

MODEL = ModelConfig(
    vocab_size=11,
    embed=8,
    heads=4,
    kv_heads=2,
    head_dim=4,
    mlp=12,
    layers=uniform_layers(3),
    qkv_bias=True,
    qk_norm="head",
)
SPECS = param_specs(MODEL)
PARAMS = init_params(MODEL, 0)


def gradients(seed):
    leaves, tree = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


def test_freezing_an_axis_freezes_every_parameter_that_has_it():
    masks = flatten(trainable(MODEL, SPECS, ("vocab",)))
    assert {p for p, m in masks.items() if m is False} == {"embed/table", "head"}


def test_freezing_layers_masks_their_slices_only():
    masks = flatten(trainable(MODEL, SPECS, ("layers[0:2]",)))
    assert masks["embed/table"] is True
    assert masks["blocks/dense/q"].shape == (3, 1, 1, 1)
    assert masks["blocks/dense/q"].ravel().tolist() == [False, False, True]


def test_frozen_weights_stay_bit_for_bit_under_decay_and_momentum():
    masks = trainable(MODEL, SPECS, ("vocab", "layers[1:2]"))
    params = PARAMS
    optimizer = make_optimizer(AdamW(weight_decay=0.3), SPECS)
    state, now = optimizer.init(params), params
    for i in range(3):
        grads = mask_gradients(gradients(i), masks)
        updates, state = optimizer.update(grads, state, now)
        new = descend(now, updates, jnp.float32(1e-2), optimizer.lr_mult)
        now = keep_frozen(new, now, masks)
    np.testing.assert_array_equal(now["embed"]["table"], params["embed"]["table"])
    np.testing.assert_array_equal(now["blocks"]["dense"]["q"][1], params["blocks"]["dense"]["q"][1])
    assert np.all(now["blocks"]["dense"]["q"][0] != params["blocks"]["dense"]["q"][0])


def test_the_gradient_of_frozen_leaves_is_cut():
    masks = trainable(MODEL, SPECS, ("vocab",))
    total = lambda p: global_norm(stop_frozen(p, masks))  # noqa: E731
    grads = jax.grad(total)(PARAMS)
    assert float(jnp.abs(grads["head"]).max()) == 0
    assert float(jnp.abs(grads["blocks"]["dense"]["q"]).max()) > 0


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (("vocabulary",), "did you mean 'vocab'?"),
        (("layers[7:9]",), "freezes no parameter"),
        (("*",), "every parameter"),
    ],
)
def test_a_rule_that_freezes_nothing_or_everything_is_an_error(rules, message):
    with pytest.raises(JaxptError, match="freeze") as error:
        trainable(MODEL, SPECS, rules, "config.stages[0].freeze")
    assert message in str(error.value)
