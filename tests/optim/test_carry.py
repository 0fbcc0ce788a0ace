"""States through a reshape: moments go where their parameters go, what cannot follow starts new and is named."""

import jax
import numpy as np
import pytest

from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.specs import flatten, param_specs
from jaxpt.optim.carry import carry_state
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adafactor import Adafactor
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.optimizers.lion import Lion
from jaxpt.optim.optimizers.muon import Muon
from jaxpt.optim.optimizers.soap import Soap
from jaxpt.reshape import permute, select
from jaxpt.reshape.apply import apply
from tests.optim.made import Factored, draw

MODEL = ModelConfig(vocab_size=8, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=12, layers=uniform_layers(2))
SPECS = param_specs(MODEL)
PARAMS = draw(0, SPECS, 0.1)


def carried(config, plan, state):
    optimizers = make_optimizer(config, SPECS), make_optimizer(config, param_specs(plan.target))
    return carry_state(plan, *optimizers, state, apply(plan, PARAMS)), optimizers[1]


def steps(optimizer, params, change=lambda tree: tree):
    """The state after some steps on gradients that are changed as a reshape changes them."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(3):
        _, state = update(change(draw(100 + i, SPECS)), state, params)
    return state


def test_adamw_goes_on_after_a_reshape_as_if_it_had_always_been():
    plan = permute(MODEL, "embed", np.roll(np.arange(8), 3))
    optimizer = make_optimizer(AdamW(), SPECS)
    (state, reset), _ = carried(AdamW(), plan, steps(optimizer, PARAMS))
    always = steps(optimizer, apply(plan, PARAMS), lambda grads: apply(plan, grads))
    assert reset == ()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, always)


def test_moments_of_a_cut_model_have_its_shape():
    plan = select(MODEL, "embed", np.array([0, 2, 4, 6]))
    before = steps(make_optimizer(AdamW(), SPECS), PARAMS)
    (state, reset), optimizer = carried(AdamW(), plan, before)
    assert reset == ()
    assert int(state["count"]) == 3
    shapes = {k: s.shape for k, s in flatten(optimizer.state_specs).items()}
    assert {k: x.shape for k, x in flatten(state).items()} == shapes
    np.testing.assert_array_equal(state["nu"]["head"], before["nu"]["head"][::2])


@pytest.mark.parametrize(
    ("config", "new"),
    [(AdamW(), set()), (Lion(), set()), (Muon(), set()), (Muon(per_neuron=True), {"neurons"})]
    + [(config, None) for config in (Adafactor(), Adafactor(momentum=0.9), Soap())],
    ids=["adamw", "lion", "muon", "normuon", "adafactor", "adafactor_with_momentum", "soap"],
)
def test_an_optimizer_of_the_room_names_what_starts_new(config, new):
    plan = select(MODEL, "mlp", np.arange(0, 12, 2))
    optimizer = make_optimizer(config, SPECS)
    (_, reset), after = carried(config, plan, optimizer.init(PARAMS))
    assert set(reset) == (set(after.state_specs) if new is None else new)  # None: all, counts too


def test_what_cannot_follow_begins_afresh_and_is_named():
    config = Factored()
    plan = select(MODEL, "embed", np.array([0, 2, 4, 6]))
    (state, reset), optimizer = carried(config, plan, steps(make_optimizer(config, SPECS), PARAMS))
    assert set(reset) == {"v_row", "v_col", "v", "count"}
    fresh = optimizer.init(apply(plan, PARAMS))
    jax.tree.map(np.testing.assert_array_equal, state, fresh)
