"""The step: one global mean over microbatches and devices, one compilation, donated buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.forward import forward
from jaxpt.training.arguments import StepArguments
from tests.training import tiny

pytestmark = pytest.mark.newest


def run(steps=3, **kinds):
    layout, state, step, place = tiny.parts(**kinds)
    losses = []
    with jax.set_mesh(layout.mesh):
        for i in range(steps):
            state, metrics = step(state, place(tiny.batch(i)), StepArguments(np.float32(1e-2)))
            losses.append(jax.device_get(metrics))
    return jax.device_get(state), losses, step


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.fixture(scope="module")
def whole():
    return run()


def dense_loss(params, batch):
    """The loss written down once more, without any of the step's parts."""
    logits = forward(tiny.MODEL, params, batch["tokens"], batch["segment_ids"], batch["positions"])
    logp = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(logp, batch["targets"][..., None], -1)[..., 0]
    return jnp.sum(nll * batch["loss_weights"]) / jnp.sum(batch["loss_weights"])


def test_the_loss_and_gradient_norm_are_those_of_the_definition(whole):
    _, state, _, _ = tiny.parts()
    batch = {k: jnp.asarray(v) for k, v in tiny.batch(0).items()}
    loss, grads = jax.jit(jax.value_and_grad(dense_loss))(state.params, batch)
    first = whole[1][0]
    np.testing.assert_allclose(first["train/loss"], loss, rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(first["train/grad_norm"], norm, rtol=1e-5)


@pytest.mark.parametrize("microbatches", [2, 8])
def test_microbatches_with_unequal_masks_give_the_unaccumulated_step(whole, microbatches):
    state, losses, _ = run(microbatches=microbatches)
    close(losses, whole[1])
    close(state.opt_state["mu"], whole[0].opt_state["mu"])


def test_a_mean_of_the_microbatches_means_is_another_loss():  # the proof above can fail
    batch = {k: jnp.asarray(v) for k, v in tiny.batch(0).items()}
    _, state, _, _ = tiny.parts()
    halves = [{k: v[i::2] for k, v in batch.items()} for i in range(2)]
    mean_of_means = np.mean([float(dense_loss(state.params, h)) for h in halves])
    assert abs(mean_of_means - float(dense_loss(state.params, batch))) > 1e-3


@pytest.mark.parametrize(
    "mesh", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}, {"fsdp": 2, "tensor": 2}]
)
def test_eight_devices_take_the_steps_of_one(whole, mesh):
    state, losses, _ = run(mesh=mesh)
    close(losses, whole[1], rtol=2e-5)
    close(state.opt_state["mu"], whole[0].opt_state["mu"], rtol=1e-4)


def test_microbatches_on_a_mesh_take_the_same_steps(whole):
    _, losses, _ = run(mesh={"data": 2, "fsdp": 2}, microbatches=2)
    close(losses, whole[1], rtol=2e-5)


def test_chunked_logits_on_a_mesh_take_the_same_steps():
    a, b = run(z_loss=1e-2)[1], run(mesh={"data": 2, "tensor": 2}, z_loss=1e-2, chunk=4)[1]
    close(a, b, rtol=2e-5)
    assert a[0]["train/z_loss"] > 0


def test_the_step_is_compiled_once_whatever_the_learning_rate(whole):
    _, state, step, place = tiny.parts()
    for i, rate in enumerate((1e-3, 5e-4, 0.0)):
        state, _ = step(state, place(tiny.batch(i)), StepArguments(np.float32(rate)))
    assert step._cache_size() == 1


def test_the_state_is_donated():
    layout, state, step, place = tiny.parts(mesh={"fsdp": 2})
    with jax.set_mesh(layout.mesh):
        new, _ = step(state, place(tiny.batch(0)), StepArguments(np.float32(1e-3)))
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves(new))


def test_moments_lie_where_their_parameters_lie():
    _, state, _, _ = tiny.parts(mesh={"fsdp": 2, "tensor": 2})
    for name in ("mu", "nu"):
        moments = state.opt_state[name]
        jax.tree.map(lambda p, m: pytest.fail("layout") if p.sharding != m.sharding else None, state.params, moments)


def test_losses_per_source_add_up_to_the_loss(whole):
    first = whole[1][0]
    np.testing.assert_allclose(first["source_nll"].sum() / first["source_weight"].sum(), first["train/loss"], rtol=1e-5)
    assert (first["source_weight"] > 0).all()


def test_frozen_axes_stay_bit_for_bit_and_the_rest_moves():
    _, before, _, _ = tiny.parts()
    kept = jax.device_get(before.params)
    after = run(freeze=("vocab",))[0].params
    np.testing.assert_array_equal(after["embed"]["table"], kept["embed"]["table"])
    assert not np.allclose(after["blocks"]["dense"]["q"], kept["blocks"]["dense"]["q"])


def test_rows_that_do_not_divide_over_devices_are_an_error_naming_the_numbers():
    with pytest.raises(JaxptError, match="batch_size 8 in 4 microbatches gives 2 rows, which the 4 devices"):
        tiny.parts(mesh={"fsdp": 4}, microbatches=4)
