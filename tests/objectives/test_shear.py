"""Mask training as an objective: its constraint, its groups, its masks; what a run makes of it is in tests/training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import Compute, flatten, param_count, unflatten
from jaxpt.models.masks import MASK, gate_axes
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import Inputs, Progress
from jaxpt.objectives.shear import MaskTraining
from jaxpt.reshape.budget import Budget
from jaxpt.reshape.gates.relu import Relu
from jaxpt.reshape.masks import shear
from jaxpt.reshape.target import Target, lengths_of
from jaxpt.training.extra import make_extra
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import batches, random_params

MODEL = VARIANTS["llama"]
TARGET = Target(embed=16, layers=2, heads=4, mlp=20)


def inputs(objective, extra, model=MODEL, share=0.5, **more):
    """Inputs of a step whose sparsity target is reached in full."""
    scheduled = {name: jnp.float32(f(Progress(int(100 * share), 100, 24))) for name, f in objective.scheduled().items()}
    return Inputs(model, {}, None, jnp.float32(1), Compute(), extra=extra, scheduled=scheduled, **more)


def held(objective, model=MODEL, steps=500, loss=lambda gates: 0.0):
    """Gates and multipliers after `steps` steps of the groups on the constraint and a loss of the gates."""
    extra = make_extra(objective, model)

    def step(state, i):
        share = i / steps
        rate = 0.1 + 0.45 * (1 + jnp.cos(jnp.pi * share))
        grads = jax.grad(lambda v: objective.step_terms(inputs(objective, v, model)).loss + loss(v["gates"]))(
            state["values"]
        )
        state, _ = extra.update(grads, state, {"gates": rate, "multipliers": rate})
        return state, None

    return jax.jit(lambda s: jax.lax.scan(step, extra.init(s), jnp.arange(steps))[0])(jnp.uint32(0))["values"]


def test_gates_and_multipliers_move_every_axis_to_its_target():
    objective = MaskTraining(target=TARGET)
    values = held(objective, loss=lambda gates: -jnp.mean(jax.nn.sigmoid(gates["mlp"]) * jnp.linspace(0, 1, 40)))
    named = objective.step_terms(inputs(objective, values)).named
    want = {"embed": 1 - 16 / 24, "layers": 1 / 3, "heads": 1 / 3, "mlp": 0.5}
    for axis, target in want.items():
        assert float(named[f"sparsity_target/{axis}"]) == pytest.approx(target)
        assert abs(float(named[f"sparsity/{axis}"]) - target) < 1e-2, axis
    masks, line = objective.masks(MODEL, {path: np.asarray(v) for path, v in flatten(values).items()})
    assert line is None
    assert masks["mlp"][:, 20:].sum() > masks["mlp"][:, :20].sum()  # what the loss is for


def test_multipliers_that_descend_would_miss_the_target():  # the proof above can fail
    class Descending(MaskTraining):
        def groups(self):
            return {n: g.__class__(g.optimizer) for n, g in super().groups().items()}

    values = held(Descending(target=TARGET), steps=200)
    named = MaskTraining(target=TARGET).step_terms(inputs(MaskTraining(target=TARGET), values)).named
    assert abs(float(named["sparsity/mlp"]) - 0.5) > 0.1


def test_a_budget_has_one_constraint_and_its_shape_meets_it():
    budget = Budget(parameters=int(0.5 * param_count(MODEL)), multiple_of={"embed": 4, "mlp": 1})
    objective = MaskTraining(budget=budget, axes=("embed", "mlp", "heads"))
    values = held(objective)
    named = objective.step_terms(inputs(objective, values)).named
    assert {n for n in named if n.startswith("sparsity_target/")} == {"sparsity_target/budget"}
    assert abs(float(named["sparsity/budget"]) - 0.5) < 1e-2
    masks, line = objective.masks(MODEL, {path: np.asarray(v) for path, v in flatten(values).items()})
    small = shear(MODEL, masks)[-1].target
    assert line is None
    assert abs(param_count(small) / budget.limit - 1) <= 0.01
    assert small.embed % 4 == 0


def test_gates_begin_at_their_limit_and_are_kept_within_it():
    extra = make_extra(MaskTraining(target=TARGET), MODEL)
    first, limit = extra.init(jnp.uint32(0)), np.float32(np.log(100))
    for values in first["values"]["gates"].values():
        np.testing.assert_array_equal(values, np.full(values.shape, limit))
    pull = jax.tree.map(jnp.ones_like, first["values"])
    rates = {"gates": jnp.float32(50), "multipliers": jnp.float32(1)}
    after, _ = jax.jit(extra.update)(pull, first, rates)
    for values in after["values"]["gates"].values():
        np.testing.assert_array_equal(values, np.full(values.shape, -limit))
    for values in after["values"]["multipliers"].values():
        assert (values > 0).all()  # they ascend, and have no limit


def test_the_target_rises_over_the_warmup():
    objective = MaskTraining(target=TARGET, warmup=0.2)
    rising = objective.scheduled()["sparsity"]
    assert [rising(Progress(step, 100, 1)) for step in (0, 5, 10, 20, 50)] == [0, 0.25, 0.5, 1, 1]
    assert MaskTraining(target=TARGET, warmup=0).scheduled()["sparsity"](Progress(0, 100, 1)) == 1


def test_masks_have_the_target_exactly_from_random_gates():
    rng = np.random.default_rng(0)
    for name in ("llama", "moe_mixed"):
        model = VARIANTS[name]
        target = Target(**{"embed": 16, "layers": 2, "kv_heads": 1, "heads": 2, "mlp": 20} | (
            {"experts": 3, "expert_mlp": 5, "shared_mlp": 8} if model.moe else {}
        ))  # fmt: skip
        for gate in ({}, {"gate": Relu()}):
            objective = MaskTraining(target=target, **gate)
            extra = {p: rng.normal(size=s.shape).astype(np.float32) for p, s in objective.extra_specs(model).items()}
            masks, _ = objective.masks(model, extra)
            assert masks.keys() == set(gate_axes(model))
            got = lengths_of(shear(model, masks)[-1].target)
            assert got == {**lengths_of(model), **{k: v for k, v in vars(target).items() if v is not None}}
            assert all(np.isin(m, (0, 1)).all() for m in masks.values()) == (not gate)


def test_evaluations_see_the_final_mask_or_that_of_the_sparsity_expected_now():
    extra = {p: np.full(s.shape, 4.605, np.float32) for p, s in MaskTraining(target=TARGET).extra_specs(MODEL).items()}
    early = Progress(1, 100, 24)
    for measured, kept in (("target", 16), ("current", 24)):
        params = MaskTraining(target=TARGET, measured=measured).evaluated(MODEL, {}, extra, early)
        assert int(params[MASK]["embed"].sum()) == kept
    at_the_end = MaskTraining(target=TARGET, measured="current").evaluated(MODEL, {}, extra, Progress(100, 100, 24))
    assert int(at_the_end[MASK]["embed"].sum()) == 16


def test_the_loss_is_that_of_the_masked_model_and_open_gates_are_plain_training():
    batch = {**{k: jnp.asarray(v) for k, v in batches(MODEL, 1)[0].items()}, "source_id": jnp.zeros(2, jnp.int32)}
    params, objective = random_params(MODEL), MaskTraining(target=TARGET, gate=Relu())
    specs = objective.extra_specs(MODEL)

    def loss(value):
        extra = unflatten({p: jnp.full(s.shape, value) for p, s in specs.items()})
        given = Inputs(MODEL, params, batch, batch["loss_weights"].sum(), Compute(), extra=extra, key=jax.random.key(0))
        return given

    plain = jax.jit(lambda p: NextToken().terms(loss(1.0)).loss)(0)
    masked = jax.jit(lambda p: objective.terms(loss(p)).loss)
    assert float(masked(1.0)) == pytest.approx(float(plain), rel=1e-6)
    assert abs(float(masked(0.7)) - float(plain)) > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "target: give lengths"),
        ({"target": TARGET, "budget": Budget(parameters=3)}, "target: give lengths .* and not both"),
        ({"target": Target(head_dim=4)}, "target.head_dim is no axis of masks"),
        ({"target": TARGET, "warmup": 2.0}, "warmup is 2.0"),
        ({"target": TARGET, "axes": ("mpl",)}, "axes has 'mpl', which cannot be masked"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(JaxptError, match=said):
        MaskTraining(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": Target(mlp=41)}, "target.mlp is 41, larger than the source's 40"),
        ({"target": Target(mlp=40)}, "there is nothing to mask"),
        ({"target": Target(mlp=20), "axes": ("embed",)}, "axes are embed, the target cuts mlp"),
        ({"budget": Budget(parameters=9), "axes": ("experts",)}, "axes has 'experts', the model has no such axis"),
    ],
)
def test_targets_that_do_not_fit_the_model_are_refused_before_the_first_step(options, said):
    with pytest.raises(JaxptError, match=said):
        make_extra(MaskTraining(**options), MODEL)
