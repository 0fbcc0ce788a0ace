"""Training with products in 8 bits stays beside bfloat16's; a mesh and microbatches are no obstacle."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpt.kernels.matmul import IMPLEMENTATIONS, fp8_emulated, matmul
from jaxpt.kernels.matmul.call import contracted
from jaxpt.kernels.matmul.quantised import quantised_product
from jaxpt.models.compute import Compute
from jaxpt.models.specs import param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding, make_mesh
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.evaluating import Evaluating
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.training.tiny import MODEL, PARAMS, B, S, batch

STEPS, LATE = 400, 100
NEAR = 0.02  # nats between the mean losses of the last 100 of 400 steps
WIDTHS = (32, 64, 64, 16)


def late_loss(implementation):
    """The mean loss of the late and of the first ten steps of a network that learns to sort points by a rotation."""
    adam = optax.adam(3e-3)
    keys = jax.random.split(jax.random.key(1), STEPS)
    shapes = list(itertools.pairwise(WIDTHS))
    params = [jax.random.normal(jax.random.key(i), shape) * shape[0] ** -0.5 for i, shape in enumerate(shapes)]
    teacher = jax.random.normal(jax.random.key(9), (WIDTHS[0], WIDTHS[-1]))

    def loss(params, x):
        targets, x = jnp.argmax(x @ teacher, axis=-1), x.astype(jnp.bfloat16)
        for i, w in enumerate(params):
            x = matmul("bsd,df->bsf", x, w.astype(jnp.bfloat16), implementation=implementation)
            x = jax.nn.silu(x) if i < len(params) - 1 else x
        return optax.softmax_cross_entropy_with_integer_labels(x.astype(jnp.float32), targets).mean()

    def step(carried, key):
        params, state = carried
        value, gradient = jax.value_and_grad(loss)(params, jax.random.normal(key, (4, 16, WIDTHS[0])))
        change, state = adam.update(gradient, state)
        return (optax.apply_updates(params, change), state), value

    of_steps = jax.jit(lambda carried: jax.lax.scan(step, carried, keys)[1])((params, adam.init(params)))
    return float(of_steps[-LATE:].mean()), float(of_steps[:10].mean())


@pytest.fixture
def coarse(monkeypatch):
    """A format without a mantissa: powers of two."""

    def rounded(q):
        bits = jax.lax.bitcast_convert_type(q.values.astype(jnp.float32), jnp.int32)
        kept = jax.lax.bitcast_convert_type(bits & jnp.int32(-(1 << 23)), jnp.float32)
        return q._replace(values=kept.astype(q.values.dtype))

    dot = lambda a, b, *rest: fp8_emulated._dot(rounded(a), rounded(b), *rest)  # noqa: E731
    run = lambda equation, x, w, _: quantised_product(x, w, contracted(equation), dot)  # noqa: E731
    monkeypatch.setitem(IMPLEMENTATIONS, "coarse", SimpleNamespace(refuses=lambda call: None, run=run))


def test_the_loss_stays_beside_that_of_bfloat16_and_in_a_coarser_format_it_does_not(coarse):
    plain, begun = late_loss("plain")
    assert plain < begun - 1  # it learns, or nothing would be compared
    assert abs(late_loss("fp8_emulated")[0] - plain) < NEAR
    assert late_loss("coarse")[0] - plain > 2 * NEAR


def test_the_scale_is_that_of_the_whole_tensor_however_it_is_split():
    mesh = make_mesh({"fsdp": 2, "tensor": 2}, jax.devices()[:4])
    x = jax.random.normal(jax.random.key(0), (4, 16, 32)).at[0, 0, 0].set(1e6)
    w = jax.random.normal(jax.random.key(1), (32, 48))
    split = [jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("fsdp", None, "tensor"), ("tensor", None))]

    def gradients(x, w):
        y, back = jax.vjp(lambda x, w: fp8_emulated.run("bsd,df->bsf", x, w, None), x, w)
        return y, *back(y)

    whole = jax.jit(gradients)(x, w)
    for a, b in zip(whole, jax.jit(gradients)(*map(jax.device_put, (x, w), split))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))
    alone = fp8_emulated.run("bsd,df->bsf", x[2:], w, None)  # where the large value is not, and is not known of
    assert not np.allclose(alone, whole[0][2:], rtol=0.1, atol=0.1)


def losses(mesh, microbatches):
    """The loss of each of three steps of a whole model."""
    layout = make_layout(MODEL, ShardingConfig(mesh=mesh), jax.devices()[: int(np.prod(list(mesh.values())))])
    optimizer = make_optimizer(AdamW(), param_specs(MODEL))
    compute = Compute("bfloat16", remat="kernels", matmul="fp8_emulated")
    step = make_step(StepSpec(MODEL, NextToken(), compute, B, S, microbatches, (), 3), optimizer, layout)
    with jax.set_mesh(layout.mesh):
        params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, PARAMS), layout.params)
        state, found = new_state(layout, optimizer, params), []
        for _ in range(3):
            rows = place(batch(), batch_sharding(layout.mesh), B)
            state, metrics = step(state, rows, StepArguments(np.float32(0.01)))
            found.append(float(metrics["train/loss"]))
    return found


def test_an_evaluation_of_a_run_is_given_the_plain_dtype():
    given = []
    entry = SimpleNamespace(every=None, before=False, after=True, stage_ends=False, prepare=given.append)
    compute = Compute("bfloat16", remat="kernels", matmul="fp8_emulated")
    stage = SimpleNamespace(config=SimpleNamespace(sequence_length=S), step=SimpleNamespace(compute=compute))
    Evaluating("mine", entry)._measure(SimpleNamespace(model=MODEL, stage=stage, workdir=None, mesh=None))
    assert given[0].compute == Compute("bfloat16", remat="kernels")


@pytest.mark.slow
def test_a_step_on_a_mesh_in_microbatches_is_the_step_of_one_device_up_to_their_scales():
    one = losses({"fsdp": 1}, 1)
    assert one[2] < one[0]
    np.testing.assert_allclose(losses({"fsdp": 2, "tensor": 2}, 2), one, rtol=1e-2)
