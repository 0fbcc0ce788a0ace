"""Distillation against a float64 reference, its special cases, chunks, vocabularies, microbatches and meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels.matmul import dispatch
from jaxpt.models import Compute, forward, init_params
from jaxpt.models.specs import param_specs
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import FrozenModel, Inputs, Progress
from jaxpt.objectives.ramp import Ramp
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import step_arguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny

TEACHER = tiny.MODEL.replace(embed=24, kv_heads=4)
HALF = Distill(teacher="any", alpha=Ramp(0.5), temperature=Ramp(2.0), z_loss=0.01, chunk=16)


def louder(params):
    """Weights so large that the predictions of two models differ."""
    return jax.tree.map(lambda x: x * 40 if x.ndim > 1 else x, params)


STUDENT_PARAMS = louder(init_params(tiny.MODEL, 0))
TEACHER_PARAMS = louder(init_params(TEACHER, 1))
BATCH = {k: jnp.asarray(v) for k, v in tiny.batch(0).items()}


def inputs(alpha=0.5, temperature=2.0, teacher=TEACHER, teacher_params=TEACHER_PARAMS, params=STUDENT_PARAMS):
    values = {"alpha": jnp.float32(alpha), "temperature": jnp.float32(temperature)}
    return Inputs(
        tiny.MODEL,
        params,
        BATCH,
        jnp.sum(BATCH["loss_weights"]),
        Compute(),
        sources=3,
        frozen={"teacher": FrozenModel(teacher, teacher_params)},
        scheduled=values,
    )


def value_and_grad(objective, given):
    @jax.jit
    def run(params):
        terms = objective.terms(dataclasses.replace(given, params=params))
        return terms.loss, terms.named

    return jax.value_and_grad(run, has_aux=True)(given.params)


def reference(alpha, t):
    """(loss, divergence, agreement) in float64, of logits that the forward pass gives."""
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), tree)  # noqa: E731
        batch = [np.asarray(BATCH[k]) for k in ("tokens", "segment_ids", "positions")]
        s, r = (
            np.asarray(forward(c, wide(p), *batch), np.float64)
            for c, p in ((tiny.MODEL, STUDENT_PARAMS), (TEACHER, TEACHER_PARAMS))
        )
    log = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))  # noqa: E731
    p, q = log(r / t), log(s / t)
    w = np.asarray(BATCH["loss_weights"], np.float64)
    w = w / w.sum()
    divergence = (w * (np.exp(p) * (p - q)).sum(-1)).sum()
    lse = np.log(np.exp(s).sum(-1))
    nll = lse - np.take_along_axis(s, np.asarray(BATCH["targets"])[..., None], -1)[..., 0]
    loss = (1 - alpha) * (w * nll).sum() + alpha * t**2 * divergence + 0.01 * (w * lse**2).sum()
    return loss, divergence, (w * (r.argmax(-1) == s.argmax(-1))).sum()


@pytest.mark.parametrize(("alpha", "t"), [(0.5, 2.0), (1.0, 1.0), (0.3, 4.0)])
def test_loss_and_facts_are_those_of_a_float64_reference(alpha, t):
    (loss, named), _ = value_and_grad(HALF, inputs(alpha, t))
    np.testing.assert_allclose((loss, named["divergence"], named["agreement"]), reference(alpha, t), rtol=2e-5)


def test_the_reference_sees_another_temperature():  # the proof above can fail
    assert abs(reference(0.5, 2.0)[0] - reference(0.5, 2.2)[0]) > 1e-2


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_chunks_give_the_dense_loss_and_gradients(divergence):
    dense = dataclasses.replace(HALF, divergence=divergence)
    (a, named_a), da = value_and_grad(dense, inputs())
    (b, named_b), db = value_and_grad(dataclasses.replace(dense, chunk=4), inputs())
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5), named_a, named_b)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-5), da, db)


def test_no_tensor_of_all_logits_exists_in_the_chunked_form():
    whole = f"f32[{tiny.B},{tiny.S},{tiny.MODEL.vocab_size}]"
    programs = [
        str(
            jax.make_jaxpr(jax.grad(lambda p, o=o: o.terms(dataclasses.replace(inputs(), params=p)).loss))(
                STUDENT_PARAMS
            )
        )
        for o in (HALF, dataclasses.replace(HALF, chunk=4))
    ]
    assert [whole in program for program in programs] == [True, False]


def test_a_model_distilled_from_itself_has_no_divergence_and_no_gradient_of_it():
    given = inputs(1.0, 2.0, tiny.MODEL, STUDENT_PARAMS)
    (loss, named), grads = value_and_grad(dataclasses.replace(HALF, z_loss=0.0), given)
    assert loss == 0
    assert named["divergence"] == 0
    assert named["agreement"] == pytest.approx(1, abs=1e-6)
    plain = value_and_grad(NextToken(), given)[1]  # of what size gradients are
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(grads)) < 1e-6 * max(
        jnp.abs(g).max() for g in jax.tree.leaves(plain)
    )


def test_a_traced_alpha_of_zero_is_plain_training():
    plain = value_and_grad(NextToken(z_loss=0.01, chunk=16), inputs())
    for t in (1.0, 3.0):
        (loss, named), grads = value_and_grad(HALF, inputs(0.0, t))
        np.testing.assert_allclose(loss, plain[0][0], rtol=1e-6)
        np.testing.assert_allclose(named["loss"], plain[0][1]["loss"], rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), grads, plain[1])


def test_a_constant_alpha_of_zero_has_no_teacher_and_is_plain_training_bit_for_bit():
    none = dataclasses.replace(HALF, teacher=None, alpha=Ramp(0.0))
    assert (none.frozen(), none.scheduled()) == ({}, {})
    given = dataclasses.replace(inputs(), frozen={}, scheduled={})
    a, b = (value_and_grad(o, given) for o in (none, NextToken(z_loss=0.01, chunk=16)))
    jax.tree.map(lambda p, q: np.testing.assert_array_equal(p, q), a, b)
    assert dataclasses.replace(none, alpha=Ramp(0.0, 0.1)).frozen() == {"teacher": ""}


def test_entries_that_one_vocabulary_lacks_count_for_nothing():
    """A teacher whose table has 16 more entries, as two sizes of one family may have; its probabilities are those of
    the entries that both have."""
    more = TEACHER.replace(vocab_size=64)
    rows = jax.random.normal(jax.random.key(9), (16, TEACHER.embed)) * 50
    params = {**TEACHER_PARAMS, "embed": {"table": jnp.concatenate([TEACHER_PARAMS["embed"]["table"], rows])}}
    (a, named_a), da = value_and_grad(HALF, inputs())
    (b, named_b), db = value_and_grad(HALF, inputs(teacher=more, teacher_params=params))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(named_a["divergence"], named_b["divergence"], rtol=1e-6)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6), da, db)


def test_temperature_and_alpha_fall_through_the_stage():
    objective = Distill(teacher="any")
    at = lambda step: step_arguments(objective, Progress(step, 100, 8), 1.0, 1.0).scheduled  # noqa: E731
    assert (at(0)["temperature"], at(0)["alpha"]) == (2.0, np.float32(0.9))
    assert at(50)["temperature"] == pytest.approx(1.5)
    assert at(99)["alpha"] == pytest.approx(0.5, abs=1e-3)
    linear = Ramp(4.0, 1.0, "linear")
    assert linear(Progress(25, 100, 8)) == pytest.approx(3.25)
    assert Ramp(3.0)(Progress(7, 9, 8)) == 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": Ramp(1.2)}, "alpha is 1.2, it must lie between 0 and 1"),
        ({"alpha": Ramp(1.0, -0.1)}, "alpha is 1 to -0.1, cosine, it must lie between"),
        ({"temperature": Ramp(2.0, 0.0)}, "temperature is 2 to 0, cosine, it must be above 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(JaxptError, match=message):
        Distill(**options)


def stepped(mesh, microbatches=1):
    """(facts, parameters) of one step; the teacher is bfloat16 and sharded by its own shapes."""
    layout = make_layout(tiny.MODEL, ShardingConfig(mesh=mesh), jax.devices()[: int(np.prod(list(mesh.values())))])
    optimizer = make_optimizer(AdamW(clip_norm=None), param_specs(tiny.MODEL))
    objective = dataclasses.replace(HALF, chunk=4)
    spec = StepSpec(tiny.MODEL, objective, Compute(), tiny.B, tiny.S, microbatches, (), 3)
    params = jax.tree.map(lambda x, s: jax.device_put(np.copy(x), s), jax.device_get(STUDENT_PARAMS), layout.params)
    state = new_state(layout, optimizer, params)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TEACHER_PARAMS)
    teacher = jax.tree.map(jax.device_put, jax.device_get(half), layout.of(param_specs(TEACHER)))
    given = step_arguments(objective, Progress(0, 10, 8), 1e-3, 1e-3, frozen={"teacher": teacher})
    step = make_step(spec, optimizer, layout, frozen={"teacher": TEACHER})
    with jax.set_mesh(layout.mesh):
        state, metrics = step(state, place(tiny.batch(0), batch_sharding(layout.mesh), tiny.B), given)
    facts = [metrics[f"train/{k}"] for k in ("loss", "divergence", "agreement", "grad_norm")]
    return jax.device_get(facts), jax.device_get(state.params)


@pytest.fixture(scope="module")
def one_device():
    return stepped({"fsdp": 1})


@pytest.mark.parametrize(("mesh", "microbatches"), [({"fsdp": 4, "tensor": 2}, 1), ({"fsdp": 1}, 4)])
def test_a_sharded_teacher_and_microbatches_give_the_step_of_one_device(one_device, mesh, microbatches):
    facts, params = stepped(mesh, microbatches)
    np.testing.assert_allclose(facts, one_device[0], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, one_device[1])


def test_a_teacher_is_computed_in_the_plain_dtype_where_the_student_is_in_8_bits(monkeypatch):
    taken, run = [], dispatch.fp8_emulated.run
    noted = lambda equation, x, w, precision: (taken.append(x.shape[-1]), run(equation, x, w, precision))[1]  # noqa: E731
    monkeypatch.setattr(dispatch.fp8_emulated, "run", noted)
    given = dataclasses.replace(inputs(), compute=Compute(matmul="fp8_emulated"))
    jax.eval_shape(lambda params: HALF.terms(dataclasses.replace(given, params=params)).loss, STUDENT_PARAMS)
    assert tiny.MODEL.embed in taken
    assert TEACHER.embed not in taken
