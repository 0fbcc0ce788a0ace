"""Hidden states pulled to a teacher's: which layers, the loss in float64, scales, and streams taken on the way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import Compute, init_params
from jaxpt.models.config import LayerSpec, uniform_layers
from jaxpt.models.decoder import hidden, streams
from jaxpt.models.pattern import cut, spans
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.hidden_states import default_pairs
from jaxpt.objectives.objective import FrozenFacts, FrozenModel, Inputs
from jaxpt.objectives.ramp import Ramp
from tests.training import tiny

TEACHER = tiny.MODEL.replace(layers=uniform_layers(4), embed=24, kv_heads=4)
TEACHER_PARAMS = init_params(TEACHER, 1)
BATCH = {k: jnp.asarray(v) for k, v in tiny.batch(0).items()}
OBJECTIVE = Distill(teacher="any", alpha=Ramp(0.0), hidden=Ramp(0.5), hidden_layers=((0, 1), (1, 3)), hidden_width=24)


@pytest.mark.parametrize(
    ("student", "teacher", "origin", "pairs"),
    [
        (4, 6, (0, 1, 4, 5), ((1, 3),)),  # 2 and 3 are gone: layer 1 does what they did
        (3, 6, (0, 2, 3), ((0, 1), (2, 5))),
        (2, 4, (2, 3), ((0, 2),)),  # the first are gone
        (2, 6, (2, 4), ((0, 3), (1, 5))),
        (4, 4, (0, 1, 2, 3), ((0, 0), (1, 1), (2, 2), (3, 3))),
        (8, 24, None, ((1, 5), (3, 11), (5, 17), (7, 23))),
        (1, 3, None, ((0, 2),)),
    ],
)
def test_layers_are_compared_where_layers_were_dropped_or_at_even_distances(student, teacher, origin, pairs):
    assert default_pairs(student, teacher, origin) == pairs


@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("after", [(0,), (1, 4), (0, 1, 2, 3, 4, 5), (5,)])
def test_spans_that_are_cut_run_the_same_layers_in_order(period, after):
    kinds = (LayerSpec(), LayerSpec("window", 4), LayerSpec("window", 8))[:period]
    config = tiny.MODEL.replace(layers=kinds * (6 // period))
    got = cut(config, spans(config), after)
    assert tuple(layer for s in got for layer in s.period * s.repeats) == config.layers
    ends = [s.first + len(s.period) * s.repeats - 1 for s in got]
    assert set(after) <= set(ends)
    assert [s.first for s in got] == [0, *(e + 1 for e in ends[:-1])]
    assert cut(config, spans(config), ()) == spans(config)


def test_streams_on_the_way_are_those_of_a_model_that_ends_there():
    batch = BATCH["tokens"], BATCH["segment_ids"], BATCH["positions"], Compute()
    x, _, tapped = streams(TEACHER, TEACHER_PARAMS, *batch, taps=(0, 2))
    np.testing.assert_allclose(x, hidden(TEACHER, TEACHER_PARAMS, *batch)[0], rtol=1e-5, atol=1e-6)
    for layer, stream in zip((0, 2), tapped):
        shorter = TEACHER.replace(layers=uniform_layers(layer + 1))
        blocks = jax.tree.map(lambda a, n=layer + 1: a[:n], TEACHER_PARAMS["blocks"])
        last = streams(shorter, {**TEACHER_PARAMS, "blocks": blocks}, *batch, taps=(layer,))[2][0]
        np.testing.assert_allclose(stream, last, rtol=1e-5, atol=1e-6)


def given(objective=OBJECTIVE, teacher=TEACHER, teacher_params=TEACHER_PARAMS, params=tiny.PARAMS, projection=None):
    shape = (tiny.MODEL.embed, teacher.embed)
    if projection is None:
        projection = jax.random.normal(jax.random.key(5), shape) / 4
    scheduled = {"alpha": jnp.float32(0), "temperature": jnp.float32(1), "hidden": jnp.float32(0.5)}
    return objective, Inputs(
        tiny.MODEL,
        params,
        BATCH,
        jnp.sum(BATCH["loss_weights"]),
        Compute(),
        sources=3,
        extra={"projection": projection},
        frozen={"teacher": FrozenModel(teacher, teacher_params)},
        scheduled=scheduled,
    )


def test_the_loss_is_that_of_a_float64_reference():
    objective, inputs = given()
    terms = jax.jit(lambda p: objective.terms(dataclasses.replace(inputs, params=p)))(tiny.PARAMS)
    batch = BATCH["tokens"], BATCH["segment_ids"], BATCH["positions"], Compute()
    own = streams(tiny.MODEL, tiny.PARAMS, *batch, taps=(0, 1))[2]
    theirs = streams(TEACHER, TEACHER_PARAMS, *batch, taps=(1, 3))[2]
    w = np.asarray(BATCH["loss_weights"], np.float64)
    total = 0.0
    w = w / w.sum()
    projection = np.asarray(inputs.extra["projection"], np.float64)
    for s, t in zip(own, theirs):
        s, t = (
            a / np.sqrt((a**2).mean(-1, keepdims=True)) for a in (np.asarray(s, np.float64), np.asarray(t, np.float64))
        )
        total += (w * ((s @ projection - t) ** 2).mean(-1)).sum() / 2
    np.testing.assert_allclose(terms.named["hidden_loss"], total, rtol=1e-5)
    np.testing.assert_allclose(terms.loss, terms.named["loss"] + 0.5 * total, rtol=1e-5)  # alpha is 0
    nothing = given(projection=jnp.zeros((tiny.MODEL.embed, TEACHER.embed)))
    np.testing.assert_allclose(nothing[0].terms(nothing[1]).named["hidden_loss"], 1, rtol=1e-4)


def test_a_teacher_of_another_scale_gives_the_same_loss():
    def louder(params, by):  # everything that writes to the stream
        blocks = {
            k: {n: a * by if n in ("o", "down") else a for n, a in v.items()} for k, v in params["blocks"].items()
        }
        return {**params, "embed": {"table": params["embed"]["table"] * by}, "blocks": blocks}

    losses = []
    for by in (1.0, 30.0):
        objective, inputs = given(teacher_params=louder(init_params(TEACHER, 1), by))
        losses.append(objective.terms(inputs).named["hidden_loss"])
    np.testing.assert_allclose(*losses, rtol=2e-3)  # norms add their epsilon to another scale


def test_a_model_beside_itself_has_no_loss_of_hidden_states_and_no_gradient():
    objective = dataclasses.replace(OBJECTIVE, hidden_layers=((0, 0), (1, 1)), hidden_width=tiny.MODEL.embed)
    assert objective.extra_specs(tiny.MODEL)["projection"].init == "zeros"
    nothing = jnp.zeros((tiny.MODEL.embed, tiny.MODEL.embed))
    _, inputs = given(objective, tiny.MODEL, tiny.PARAMS, projection=nothing)

    def loss(params, projection):
        changed = dataclasses.replace(inputs, params=params, extra={"projection": projection})
        return objective.terms(changed).named["hidden_loss"]

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(tiny.PARAMS, nothing)
    assert value == 0
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) == 0
    assert loss(tiny.PARAMS, nothing + 0.1) > 0.01  # the proof above can fail


def test_the_teacher_says_its_width_and_wrong_layers_are_named():
    facts = {"teacher": FrozenFacts(TEACHER, (0, 3))}
    plain = Distill(teacher="any", hidden=Ramp(0.5))
    assert plain.beside(tiny.MODEL, facts, "objective").hidden_layers == ((0, 2),)
    assert plain.beside(tiny.MODEL, facts, "objective").hidden_width == 24
    assert Distill(teacher="any").beside(tiny.MODEL, facts, "objective") == Distill(teacher="any")
    with pytest.raises(JaxptError, match=r"objective.hidden_layers: the teacher has no layer 4, it has 0 to 3"):
        dataclasses.replace(plain, hidden_layers=((1, 4),)).beside(tiny.MODEL, facts, "objective")
    with pytest.raises(JaxptError, match="hidden_width is 7, the teacher's stream has 24"):
        dataclasses.replace(plain, hidden_width=7).beside(tiny.MODEL, facts, "objective")
    for options, message in [({"hidden": Ramp(-1.0)}, "hidden is -1"), ({"hidden_layers": ((1,),)}, "must be pairs")]:
        with pytest.raises(JaxptError, match=message):
            Distill(**options)
