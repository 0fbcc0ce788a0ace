"""Distillation from a cache: with all ids kept it is distillation from the teacher at hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import forward
from jaxpt.models.batch import DistillBatch, kinds
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.ramp import Ramp
from jaxpt.sharding import batch_sharding
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout
from tests.objectives.test_distill import BATCH, TEACHER, TEACHER_PARAMS, inputs, value_and_grad
from tests.training import tiny

ONLINE = Distill(teacher="any", alpha=Ramp(0.5), temperature=Ramp(2.0), chunk=16)
CACHED = dataclasses.replace(ONLINE, cache={"a": "any"})


def taught(temperature=2.0):
    """The batch with the teacher's whole distribution as its targets, ids in any order."""
    logits = forward(TEACHER, TEACHER_PARAMS, *(BATCH[k] for k in ("tokens", "segment_ids", "positions")))
    log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
    order = jax.random.permutation(jax.random.key(5), TEACHER.vocab_size)
    columns = {
        "teacher_ids": jnp.broadcast_to(order.astype(jnp.int32), log_p.shape),
        "teacher_weights": jnp.exp(log_p)[..., order],
        "teacher_entropy": -jnp.sum(jnp.exp(log_p) * log_p, axis=-1),
    }
    return {**BATCH, **columns}


def cached(objective=CACHED, alpha=0.5, temperature=2.0):
    given = dataclasses.replace(inputs(alpha), frozen={}, batch=taught(temperature))
    return value_and_grad(objective, given)


def test_all_ids_of_the_teacher_give_the_loss_and_gradient_of_the_teacher_at_hand():
    (a, named_a), da = value_and_grad(ONLINE, inputs(0.5, 2.0))
    (b, named_b), db = cached()
    # the entropy, which no gradient sees, is what both losses differ by
    entropy = jnp.sum(BATCH["loss_weights"] * taught()["teacher_entropy"]) / jnp.sum(BATCH["loss_weights"])
    np.testing.assert_allclose(a, b - 0.5 * 4 * entropy, rtol=1e-5)
    np.testing.assert_allclose(named_a["divergence"], named_b["divergence"], rtol=1e-5)
    np.testing.assert_allclose(named_a["loss"], named_b["loss"], rtol=1e-6)
    np.testing.assert_allclose(named_a["agreement"], named_b["cached_agreement"], rtol=1e-6)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-5), da, db)


@pytest.mark.parametrize(("ahead", "agreement"), [(1, 1.0), (0, 0.0)])
def test_the_student_agrees_where_it_finds_the_heaviest_id_likeliest(ahead, agreement):
    given = dataclasses.replace(inputs(0.5), frozen={})
    logits = forward(given.model, given.params, *(BATCH[k] for k in ("tokens", "segment_ids", "positions")))
    first = jnp.argsort(-logits, axis=-1)[..., :2].astype(jnp.int32)
    heavy = jnp.array([0.6, 0.4]) if ahead else jnp.array([0.4, 0.6])
    weights, entropy = jnp.broadcast_to(heavy, first.shape), jnp.zeros(first.shape[:-1])
    batch = {**BATCH, "teacher_ids": first, "teacher_weights": weights, "teacher_entropy": entropy}
    (_, named), _ = value_and_grad(CACHED, dataclasses.replace(given, batch=batch))
    assert named["cached_agreement"] == pytest.approx(agreement, abs=1e-6)


def test_targets_at_another_temperature_would_be_noticed():  # the proof above can fail
    (_, named), _ = cached(temperature=1.0)
    assert abs(named["divergence"] - value_and_grad(ONLINE, inputs(0.5, 2.0))[0][1]["divergence"]) > 1e-2


def test_chunks_give_the_dense_loss_and_gradient_at_temperature_one():
    one = dataclasses.replace(CACHED, temperature=Ramp(1.0))
    a, b = (cached(dataclasses.replace(one, chunk=c), temperature=1.0) for c in (16, 4))
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-5), a, b)


def test_no_teacher_is_opened_and_only_alpha_moves():
    assert CACHED.frozen() == {}
    assert set(CACHED.scheduled()) == {"alpha"}
    assert CACHED.cached_targets() == ({"a": "any"}, 2.0, "any")
    assert ONLINE.cached_targets() is None
    assert dataclasses.replace(CACHED, alpha=Ramp(0.0)).cached_targets() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": Ramp(2.0, 1.0)}, "temperature is 2 to 1, cosine, a cache has one"),
        ({"divergence": "reverse_kl"}, "divergence is reverse_kl, which needs the teacher's whole distribution"),
        ({"divergence": "jensen_shannon"}, "divergence is jensen_shannon, which needs"),
    ],
)
def test_what_a_cache_cannot_give_is_refused(options, message):
    with pytest.raises(JaxptError, match=message):
        dataclasses.replace(CACHED, **options)


def test_a_batch_without_targets_is_placed_as_it_was():
    sharding = batch_sharding(make_layout(tiny.MODEL, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1]).mesh)
    plain = {**tiny.batch(0), "row_id": np.arange(tiny.B)}
    assert set(place(plain, sharding, tiny.B)) == set(kinds())
    more = {k: np.asarray(v) for k, v in taught().items()}
    assert set(place(more, sharding, tiny.B)) == set(kinds(DistillBatch))
