"""Balance losses at their known values, the bias rule, and the same global loss under any split of the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models import Compute, MoeConfig, init_params, uniform_layers
from jaxpt.models.routing import route
from jaxpt.objectives import balance
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import Inputs
from jaxpt.training.arguments import StepArguments
from tests.training import tiny

MODEL = tiny.MODEL.replace(
    layers=uniform_layers(2, ffn="moe"), moe=MoeConfig(4, 2, 8, weights="softmax", selection_bias=True)
)
OBJECTIVE = NextToken(balance=0.3, sequence_balance=0.2, router_z=0.1)


def sums(counts, probs, tokens=32.0):
    one = lambda v: jnp.asarray([v], jnp.float32)  # noqa: E731
    return {"counts": one(counts), "probs": one(probs), "tokens": one(tokens), "entropy": one(0.0)}


def test_the_loss_is_one_when_even_and_experts_over_k_at_collapse():
    assert float(balance.load_balancing(sums([8.0] * 4, [8.0] * 4))) == pytest.approx(1.0)
    assert float(balance.load_balancing(sums([32.0, 0, 0, 0], [32.0, 0, 0, 0]))) == pytest.approx(4.0)
    assert float(balance.load_balancing(sums([32.0, 32.0, 0, 0], [16.0, 16.0, 0, 0]))) == pytest.approx(2.0)


def test_z_loss_is_the_squared_logsumexp():
    x = jnp.ones((2, 3, 4))
    stats = route(MODEL.moe, jnp.zeros((4, 4)), None, x, jnp.ones((2, 3), bool), jnp.float32)[2]
    stats = jax.tree.map(lambda a: a[None], stats)
    np.testing.assert_allclose(balance.router_z(stats), np.log(4) ** 2, rtol=1e-6)
    np.testing.assert_allclose(balance.metrics(stats)["moe/entropy"], np.log(4), rtol=1e-5)


def test_the_bias_rises_where_the_load_is_low_and_only_there():
    params = init_params(MODEL, 0)
    new = balance.update_selection_bias(MODEL, params, jnp.array([[9.0, 1, 5, 5]] * 2), 1e-3)
    np.testing.assert_allclose(new["blocks"]["moe"]["router_bias"], [[-1e-3, 1e-3, 0, 0]] * 2, rtol=1e-6)
    assert new["blocks"]["moe"]["router"] is params["blocks"]["moe"]["router"]
    assert balance.update_selection_bias(MODEL, params, jnp.ones((2, 4)), 0.0) is params


def test_metrics_name_dead_experts_and_the_largest_violation():
    m = balance.metrics(sums([30.0, 10, 0, 0], [8.0] * 4))
    assert float(m["moe/dead_experts"]) == 2
    assert float(m["moe/max_violation"]) == pytest.approx(2.0)


def loss_and_gradient(pieces, totals_from):
    params = init_params(MODEL, 0)
    batch = {k: jnp.asarray(v) for k, v in tiny.batch(0).items()}
    total = jnp.sum(batch["loss_weights"])
    inputs = Inputs(MODEL, params, batch, total, Compute(), rows_per_device=8, sources=3)
    totals = OBJECTIVE.terms(inputs).sums["routing"] if totals_from == "global" else None

    def loss(p):
        parts = [{k: v[i::pieces] for k, v in batch.items()} for i in range(pieces)]
        share = lambda part: OBJECTIVE.terms(dataclasses.replace(inputs, params=p, batch=part, totals=totals)).loss  # noqa: E731
        return sum(share(part) for part in parts)

    return jax.jit(jax.value_and_grad(loss))(params)


def test_microbatches_with_global_counts_give_the_loss_and_gradient_of_the_whole_batch():
    whole, split = loss_and_gradient(1, "global"), loss_and_gradient(2, "global")
    for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(whole)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_local_counts_give_another_loss():  # the proof above can fail
    assert abs(float(loss_and_gradient(2, "local")[0]) - float(loss_and_gradient(1, "global")[0])) > 1e-3


@pytest.mark.slow
def test_a_train_step_on_eight_devices_in_microbatches_is_the_step_of_one(monkeypatch):
    monkeypatch.setattr(tiny, "MODEL", MODEL)
    monkeypatch.setattr(tiny, "PARAMS", jax.device_get(init_params(MODEL, 0)))
    objective = dataclasses.replace(OBJECTIVE, bias_rate=1e-2)
    results = []
    for mesh, microbatches in (({"fsdp": 1}, 1), ({"expert": 2, "fsdp": 2}, 2)):
        layout, state, step, place = tiny.parts(mesh, microbatches=microbatches, objective=objective)
        with jax.set_mesh(layout.mesh):
            state, metrics = step(state, place(tiny.batch(0)), StepArguments(np.float32(1e-2)))
        results.append(jax.device_get((state.params["blocks"]["moe"]["router_bias"], metrics)))
    for a, b in zip(jax.tree.leaves(results[1]), jax.tree.leaves(results[0])):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.abs(results[0][0]).max() == pytest.approx(1e-2)
