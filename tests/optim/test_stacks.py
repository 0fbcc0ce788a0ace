"""Updating a stack equals updating each layer and each expert alone, for every optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpt.config.choice import find, names
from jaxpt.models.specs import ParamSpec, flatten
from jaxpt.optim.chain import descend, make_optimizer
from jaxpt.optim.optimizer import Optimizer
from tests.optim.made import SPECS, Blocks, Factored, Flat, Mixed, draw, run

# the first mean of Gᵀ G of a matrix with more columns than rows has no one eigenbasis: SOAP turns short sides alone
MORE = {"soap": {"largest": 4}}
ROOM = [find(Optimizer, name, "name")(clip_norm=None, **MORE.get(name, {})) for name in names(Optimizer)]
OURS = [Factored(clip_norm=None), Blocks(clip_norm=None), Flat(clip_norm=None, said=True), Mixed(clip_norm=None)]
PARAMS = draw(0, size=0.1)
STEPS = 3


def alone(config, path, specs=SPECS):
    """What STEPS steps make of each piece of a parameter, each with an optimizer of its own."""
    spec = flatten(specs)[path]
    start = flatten(draw(0, specs, 0.1))[path]
    count = len(spec.pieces)
    piece = dataclasses.replace(spec, shape=spec.shape[count:], axes=spec.axes[count:])
    optimizer = make_optimizer(config, {path: piece})
    step = jax.jit(lambda g, s, p: by_hand(optimizer, g, s, p))
    out = np.empty(spec.shape, np.float32)
    for index in np.ndindex(spec.pieces):
        params = {path: start[index]}
        state = optimizer.init(params)
        for i in range(STEPS):
            params, state = step({path: flatten(draw(100 + i, specs))[path][index]}, state, params)
        out[index] = params[path]
    return out


def by_hand(optimizer, grads, state, params):
    updates, state = optimizer.update(grads, state, params)
    return descend(params, updates, jnp.float32(1e-2), optimizer.lr_mult), state


STACKED = ["blocks/dense/q", "blocks/dense/attn_norm", "blocks/moe/o", "blocks/moe/router", "blocks/moe/expert_down"]


@pytest.mark.parametrize("config", [*ROOM, *OURS], ids=lambda c: type(c).__name__)
def test_a_stack_is_updated_as_each_layer_and_each_expert_alone(config):
    optimizer = make_optimizer(config, SPECS)
    ours = flatten(run(optimizer, PARAMS, STEPS)[0])
    for path in [*STACKED, "embed/table"]:
        np.testing.assert_allclose(ours[path], alone(config, path), rtol=2e-5, atol=2e-6, err_msg=path)


DEEP = {  # more layers and experts than rows and columns
    "up": ParamSpec((12, 4, 6), ("layers", "embed", "mlp")),
    "norm": ParamSpec((12, 4), ("layers", "embed")),
    "expert_up": ParamSpec((3, 10, 4, 6), ("layers", "experts", "embed", "expert_mlp")),
    "head": ParamSpec((4, 6), ("embed", "vocab")),
}


def test_a_factored_rule_over_the_stack_itself_would_be_seen():  # the proof above can fail
    config = Factored(clip_norm=None, weight_decay=0.0)
    params = draw(0, DEEP, 0.1)
    ours = run(make_optimizer(config, DEEP), params, STEPS)[0]
    core = config.core(DEEP)
    state = core.init(params)
    for i in range(STEPS):
        updates, state = core.update(draw(100 + i, DEEP), state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: -1e-2 * u, updates))
    for path in DEEP:
        expected = alone(config, path, DEEP)
        np.testing.assert_allclose(ours[path], expected, rtol=2e-5, atol=2e-6, err_msg=path)
        assert np.allclose(params[path], expected, rtol=1e-3, atol=1e-4) == (path == "head"), path


def test_mapping_over_pieces_adds_nothing_to_the_compiled_adamw():
    def cost(update, state):
        compiled = jax.jit(update).lower(PARAMS, state, PARAMS).compile()
        memory = compiled.memory_analysis()
        return compiled.cost_analysis()["bytes accessed"], memory.temp_size_in_bytes, memory.argument_size_in_bytes

    (config,) = [c for c in ROOM if c.name == "adamw"]
    optimizer = make_optimizer(dataclasses.replace(config, weight_decay=0.0), SPECS)
    plain = config.core(SPECS)
    ours = cost(optimizer.update, optimizer.init(PARAMS))
    theirs = cost(plain.update, plain.init(PARAMS))
    for mine, other in zip(ours, theirs):
        assert mine <= 1.01 * other + 64
