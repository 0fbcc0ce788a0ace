"""States through a reshape: moments go where their parameters go, what cannot follow begins afresh and is named."""

import jax
import numpy as np
import pytest

from jaxpt.models.specs import flatten, param_specs
from jaxpt.optim.carry import carry_state
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.reshape import permute, select
from jaxpt.reshape.apply import apply
from tests.optim.made import MODEL, SPECS, Factored, draw, run

PARAMS = draw(0, size=0.1)


def carried(config, plan, state):
    optimizers = make_optimizer(config, SPECS), make_optimizer(config, param_specs(plan.target))
    return carry_state(plan, *optimizers, state, apply(plan, PARAMS)), optimizers[1]


def test_adamw_goes_on_after_a_reshape_as_the_reshaped_run_would():
    plan = permute(MODEL, "embed", np.roll(np.arange(8), 3))
    (state, reset), _ = carried(AdamW(), plan, run(make_optimizer(AdamW(), SPECS), PARAMS)[1])
    assert reset == ()
    optimizer = make_optimizer(AdamW(), SPECS)
    params = apply(plan, PARAMS)
    other = optimizer.init(params)
    for i in range(4):  # the same steps on permuted gradients
        _, other = optimizer.update(apply(plan, draw(100 + i)), other, params)
        params = apply(plan, run(optimizer, PARAMS, i + 1)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, other)


def test_moments_of_a_cut_model_have_its_shape():
    plan = select(MODEL, "embed", np.array([0, 2, 4, 6]))
    before = run(make_optimizer(AdamW(), SPECS), PARAMS)[1]
    (state, reset), optimizer = carried(AdamW(), plan, before)
    assert reset == ()
    assert int(state["count"]) == 4
    shapes = {k: s.shape for k, s in flatten(optimizer.state_specs).items()}
    assert {k: x.shape for k, x in flatten(state).items()} == shapes
    np.testing.assert_array_equal(state["nu"]["head"], before["nu"]["head"][::2])


@pytest.mark.parametrize("config", [Factored()], ids=["factored"])
def test_what_cannot_follow_begins_afresh_and_is_named(config):
    plan = select(MODEL, "embed", np.array([0, 2, 4, 6]))
    (state, reset), optimizer = carried(config, plan, run(make_optimizer(config, SPECS), PARAMS)[1])
    assert set(reset) == {"v_row", "v_col", "v"}
    fresh = optimizer.init(apply(plan, PARAMS))
    jax.tree.map(np.testing.assert_array_equal, {**state, "count": 0}, {**fresh, "count": 0})
    assert int(state["count"]) == 4
