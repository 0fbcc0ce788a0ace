"""AdamW agrees with optax; the decay mask and freezing follow the axis table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.specs import flatten, map_specs, param_specs
from jaxpt.optim.freezing import keep_frozen, mask_gradients, stop_frozen, trainable
from jaxpt.optim.optimizers import clip_by_global_norm, global_norm, make_optimizer
from jaxpt.training.config import OptimizerConfig

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
DECAYED = {"embed/table", "head", *(f"blocks/dense/{n}" for n in ("q", "k", "v", "o", "gate", "up", "down"))}


def gradients(seed):
    leaves, tree = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


def steps(optimizer, params, count=4):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(count):
        params, state = update(gradients(i), state, params, jnp.float32(1e-2))
    return params


def by_optax(mask, count=4):
    params = PARAMS
    tx = optax.adamw(1e-2, 0.9, 0.95, 1e-8, weight_decay=0.3, mask=mask)
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(count):
        updates, state = update(gradients(i), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adamw_takes_the_steps_of_optax():
    ours = steps(make_optimizer(OptimizerConfig(weight_decay=0.3), SPECS), PARAMS)
    theirs = by_optax(map_specs(lambda path, spec: path in DECAYED, SPECS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_decaying_the_norm_gains_too_would_be_seen():  # the proof above can fail
    ours = steps(make_optimizer(OptimizerConfig(weight_decay=0.3), SPECS), PARAMS)
    theirs = by_optax(map_specs(lambda path, spec: True, SPECS))
    assert not np.allclose(ours["final_norm"], theirs["final_norm"], atol=1e-4)


def test_matrices_decay_and_gains_and_biases_do_not():
    assert {path for path, spec in flatten(SPECS).items() if spec.decay} == DECAYED


def test_clipping_scales_to_the_limit_and_leaves_small_gradients_alone():
    grads = gradients(0)
    norm = global_norm(grads)
    assert float(global_norm(clip_by_global_norm(grads, norm, 0.5))) == pytest.approx(0.5, rel=1e-5)
    untouched = clip_by_global_norm(grads, norm, 1e6)
    jax.tree.map(np.testing.assert_array_equal, untouched, grads)


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
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.3), SPECS)
    state, now = optimizer.init(params), params
    for i in range(3):
        grads = mask_gradients(gradients(i), masks)
        new, state = optimizer.update(grads, state, now, jnp.float32(1e-2))
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
    ("rules", "told"),
    [
        (("vocabulary",), "did you mean 'vocab'?"),
        (("layers[7:9]",), "freezes no parameter"),
        (("*",), "every parameter"),
    ],
)
def test_a_rule_that_freezes_nothing_or_everything_is_an_error(rules, told):
    with pytest.raises(JaxptError, match="freeze") as error:
        trainable(MODEL, SPECS, rules, "config.stages[0].freeze")
    assert told in str(error.value)


def test_an_unknown_optimizer_names_its_neighbour():
    with pytest.raises(JaxptError, match="did you mean 'adamw'"):
        make_optimizer(OptimizerConfig(name="adam"), SPECS)
