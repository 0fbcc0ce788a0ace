"""All that an objective may ask for, by one toy: the same step whatever the microbatches and the mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpt
from jaxpt.errors import JaxptError
from jaxpt.models import Compute, Model, flatten, init_params, param_specs
from jaxpt.models.size import param_count
from jaxpt.objectives.objective import ExtraSpec, Group, Objective, Progress, Terms
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import step_arguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.frozen import load_frozen, open_frozen
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.objectives.toy import Toy
from tests.training import tiny

TEACHER = tiny.MODEL.replace(embed=24, mlp=40, kv_heads=4)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "bundle"
    params = jax.tree.map(lambda x: 5 * x.astype(jnp.bfloat16), init_params(TEACHER, 3))
    jaxpt.save(Model(TEACHER, params), path)
    return Toy(teacher=str(path))


class Program:
    """A step of an objective on the tiny model, with its first state and its frozen models."""

    def __init__(self, objective, mesh=None, microbatches=1, freeze=()):
        mesh = mesh or {"fsdp": 1}
        self.objective = objective
        self.layout = make_layout(
            tiny.MODEL, ShardingConfig(mesh=mesh), jax.devices()[: int(np.prod([*mesh.values()]))]
        )
        optimizer = make_optimizer(AdamW(), param_specs(tiny.MODEL))
        models = open_frozen(objective)
        spec = StepSpec(tiny.MODEL, objective, Compute(), tiny.B, tiny.S, microbatches, freeze, 3)
        self.step = make_step(spec, optimizer, self.layout, frozen={n: m.model for n, m in models.items()})
        self.frozen = load_frozen(models, self.layout)
        params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, tiny.PARAMS), self.layout.params)
        extra, _ = begin({}, make_extra(objective, tiny.MODEL), self.layout, 5, fresh=False)
        self.state = new_state(self.layout, optimizer, params)._replace(extra=extra)

    def arguments(self, i, seed=7, frozen=None):
        progress, frozen = Progress(i, 10, tiny.B * tiny.S), frozen or self.frozen
        return step_arguments(self.objective, progress, 1e-2 - 1e-3 * i, 1e-2, seed=seed, step=i, frozen=frozen)

    def batch(self, i):
        return place(tiny.batch(i), batch_sharding(self.layout.mesh), tiny.B)

    def run(self, steps=3, **kinds):
        """Returns state and metrics after some steps; the program may run again."""
        state, metrics = jax.tree.map(jnp.copy, self.state), []
        with jax.set_mesh(self.layout.mesh):
            for i in range(steps):
                state, values = self.step(state, self.batch(i), self.arguments(i, **kinds))
                metrics.append(jax.device_get(values))
        return jax.device_get(state), metrics


def close(a, b, rtol=2e-4, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.fixture(scope="module")
def program(toy):
    return Program(toy)


@pytest.fixture(scope="module")
def whole(program):
    return program.run()


def test_all_of_it_is_used_and_reported(whole):
    state, metrics = whole
    names = {"kl", "loud", "loss", "off_target", "grad_norm", "param_norm", "grad_norm/gates", "grad_norm/multipliers"}
    assert metrics[0].keys() == {f"train/{n}" for n in names} | {"toy/tokens", "toy/temperature"}
    np.testing.assert_allclose([m["toy/temperature"] for m in metrics], [2.0, 1.9, 1.8], rtol=1e-6)
    for i, m in enumerate(metrics):
        assert m["toy/tokens"] == tiny.batch(i)["loss_weights"].sum()
        np.testing.assert_allclose(m["train/loss"], m["train/kl"] + 0.01 * m["train/loud"], rtol=1e-5)
    assert state.extra["values"].keys() == {"gates", "multipliers"}
    assert state.extra["opt_state"].keys() == {"gates", "multipliers"}
    assert np.ptp(state.extra["values"]["gates"]["embed"]) > 0


@pytest.mark.parametrize(("mesh", "microbatches"), [({"fsdp": 1}, 4), ({"fsdp": 4, "tensor": 2}, 2)])
def test_microbatches_and_devices_take_the_steps_of_one(toy, whole, mesh, microbatches):
    state, metrics = Program(toy, mesh, microbatches).run()
    close(metrics, whole[1])
    close(state.extra["values"], whole[0].extra["values"], atol=2e-5)
    close(state.extra["opt_state"], whole[0].extra["opt_state"], rtol=1e-3)
    close(state.opt_state["mu"], whole[0].opt_state["mu"], rtol=2e-3)
    close(state.params, whole[0].params, rtol=1e-3, atol=2e-5)


def test_the_group_that_ascends_rises_where_the_other_falls(program, whole):
    before, after = (jax.device_get(s.extra["values"]) for s in (program.state, whole[0]))
    assert whole[1][0]["train/off_target"] > 0  # so that the Lagrangian rises with its multipliers and falls with gates
    assert (after["multipliers"] > before["multipliers"]).all()
    assert after["gates"]["mlp"].mean() < before["gates"]["mlp"].mean()
    np.testing.assert_allclose(after["multipliers"], 3 * 0.1, rtol=0.05)  # AdamW at the group's own constant rate


def test_the_key_is_of_the_seed_and_the_step(program, whole):
    again, other = program.run(), program.run(1, seed=8)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert other[1][0]["train/kl"] != whole[1][0]["train/kl"]


def test_another_teacher_needs_no_compilation_and_the_frozen_one_is_not_moved(program, whole):
    kept = jax.device_get(program.frozen)
    other = {"teacher": jax.tree.map(lambda x: 2 * x, program.frozen["teacher"])}
    values = program.run(1, frozen=other)[1][0]
    assert values["train/kl"] != whole[1][0]["train/kl"]
    assert program.step._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, kept, jax.device_get(program.frozen))
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(program.frozen))


loaded = functools.cache(jaxpt.load)


@dataclasses.dataclass(frozen=True)
class Closing(Toy):
    """The toy with its teacher closed over, as it must not be."""

    def frozen(self):
        return {}

    def terms(self, inputs):
        teacher = loaded(self.teacher)
        frozen = {"teacher": (teacher.config, teacher.params)}
        return super().terms(dataclasses.replace(inputs, frozen=frozen))


def constants(program):
    """Entries of all the arrays that the program holds as constants."""
    with jax.set_mesh(program.layout.mesh):
        traced = program.step.trace(program.state, program.batch(0), program.arguments(0))
    return sum(np.size(c) for c in traced.jaxpr.consts)


def test_frozen_parameters_are_no_constants_of_the_program(program):
    assert constants(program) < 100


def test_a_teacher_that_is_closed_over_is_one(toy):  # the proof above can fail
    loaded(toy.teacher)
    assert constants(Program(Closing(teacher=toy.teacher))) >= param_count(TEACHER)


def test_extra_things_lie_by_their_axes(toy):
    layout = make_layout(tiny.MODEL, ShardingConfig(mesh={"fsdp": 2, "tensor": 2}), jax.devices()[:4])
    extra = make_extra(Wide(), tiny.MODEL)
    abstract = flatten(extra.abstract(layout))
    assert abstract["values/projection"].sharding.spec == jax.sharding.PartitionSpec("fsdp")
    assert abstract["opt_state/own/mu/projection"].sharding == abstract["values/projection"].sharding
    assert abstract["values/odd"].sharding.spec == jax.sharding.PartitionSpec()  # 3 rows on 2 devices stay whole
    assert abstract["opt_state/own/count"].sharding.is_fully_replicated


@dataclasses.dataclass(frozen=True)
class Wide(Objective):
    """Things with axes that the mesh splits, or cannot; and what breaks the contract."""

    group: str = "own"
    optimizer: object = AdamW()
    loss: str = "scalar"

    def extra_specs(self, model):
        return {
            "projection": ExtraSpec((model.embed, 24), ("embed", "teacher_embed"), group=self.group),
            "odd": ExtraSpec((3, 5), ("mlp", "other"), group=self.group),
        }

    def groups(self):
        return {"own": Group(self.optimizer)}

    def terms(self, inputs):
        loss = jnp.mean(inputs.extra["projection"])
        return Terms(loss, {"size": jnp.ones(2) if self.loss == "vector" else loss}) if self.loss != "bare" else loss


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"group": "owm"}, r"'projection' is of group 'owm'.*'own'"),
        ({"optimizer": None}, r"group 'own' has no optimizer; give Group\(optimizer="),
        ({"loss": "vector"}, r"size of terms is float32\[2\], it must be a float32 scalar"),
        ({"loss": "bare"}, r"terms gives a .*, it must be Terms"),
    ],
)
def test_a_broken_contract_is_one_line(options, line):
    with pytest.raises(JaxptError, match=line) as error:
        constants(Program(Wide(**options)))
    assert "\n" not in str(error.value)


def test_all_parameters_may_be_frozen_where_the_objective_trains_its_own():
    assert Program(Wide(), freeze=("embed", "blocks/*", "final_norm")).step
    with pytest.raises(JaxptError, match="freezes every parameter"):
        tiny.parts(freeze=("embed", "blocks/*", "final_norm"))


def test_a_schedule_that_gives_no_number_is_named(toy):
    odd = dataclasses.replace(toy, temperature=float("nan"))
    with pytest.raises(JaxptError, match="schedule of 'temperature' gives nan at step 3"):
        step_arguments(odd, Progress(3, 10, 8), 1e-2, 1e-2, step=3)
