"""A teacher that is the run's own start, whose weights are frozen, is held once: the step reads it out of its state."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxpt.config.schema import build
from jaxpt.models.compute import Compute
from jaxpt.models.specs import param_specs
from jaxpt.objectives.objective import Progress
from jaxpt.objectives.ramp import Ramp
from jaxpt.objectives.shear import MaskTraining
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.reshape.target import Target
from jaxpt.training.arguments import step_arguments
from jaxpt.training.config import RunConfig, ShardingConfig
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.run_plan import continued, make_plan
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny
from tests.training.feed import MadeSource
from tests.training.run_made import CONFIG, STAGE

SHEAR = {"name": "shear", "target": {"mlp": 20}, "alpha": {"start": 0.5}}
FROZEN = {**STAGE, "duration": "4 steps", "freeze": ["*"], "objective": SHEAR}
FREE = {**FROZEN, "freeze": []}


def plan(*stages, **more):
    stages = [{**stage, "name": f"s{i}"} for i, stage in enumerate(stages)]
    return make_plan(build(RunConfig, {**CONFIG, "stages": stages}), {n: MadeSource() for n in "ab"}, **more)


def own(plan):
    return [set(stage.step.own) for stage in plan.stages]


def test_only_a_parent_whose_weights_have_not_moved_is_the_model_that_is_trained():
    assert own(plan(FROZEN, FROZEN, FREE, FROZEN)) == [{"teacher"}, {"teacher"}, set(), set()]
    assert own(plan({**FROZEN, "freeze": ["vocab", "blocks/*"]})) == [set()]  # the final norm is trained
    elsewhere = {**FROZEN, "objective": {**SHEAR, "teacher": "another/model"}}
    assert own(plan(elsewhere)) == [set()]
    assert own(plan({**FROZEN, "objective": {**SHEAR, "alpha": {"start": 0.0}}})) == [set()]  # none is read


def test_a_checkpoint_says_whether_weights_have_moved_and_a_frozen_stage_after_it_believes_it():
    made = plan(FROZEN, FREE)
    assert [made.to_save(step)["unmoved"] for step in (0, 4, 5, 8)] == [True, True, False, False]
    assert own(plan(FROZEN, saved={"unmoved": False})) == [set()]  # it was not frozen when its first steps were taken
    frozen = plan(FROZEN)
    saved = {"step": 2, **frozen.to_save(2)}
    assert own(continued(frozen, saved)) == [{"teacher"}]


def test_a_run_that_goes_on_has_the_steps_that_were_compiled():
    made = plan(FROZEN)
    compute = Compute(attention="xla")  # as where a kernel was found to be wrong
    stages = tuple(dataclasses.replace(s, step=dataclasses.replace(s.step, compute=compute)) for s in made.stages)
    made = dataclasses.replace(made, stages=stages)
    assert [s.step for s in continued(made, {"step": 2, **made.to_save(2)}).stages] == [s.step for s in stages]


@pytest.fixture(scope="module")
def steps():
    """Two steps of frozen weights under masks, by whether the teacher is the model itself: state and metrics."""
    objective = MaskTraining(target=Target(embed=8, mlp=20), alpha=Ramp(0.7))
    layout = make_layout(tiny.MODEL, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(tiny.MODEL))
    put = tiny.parts()[-1]

    def take(unmoved, frozen):
        spec = StepSpec(tiny.MODEL, objective, Compute(), tiny.B, tiny.S, 1, ("*",), 3, unmoved)
        step = make_step(spec, optimizer, layout, frozen={"teacher": tiny.MODEL})
        params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, tiny.PARAMS), layout.params)
        extra, _ = begin({}, make_extra(objective, tiny.MODEL), layout, 0, fresh=False)
        state, seen = new_state(layout, optimizer, params)._replace(extra=extra), []
        with jax.set_mesh(layout.mesh):
            for i in range(2):
                given = step_arguments(objective, Progress(i, 2, 128), 1e-2, 1e-2, step=i, frozen=frozen)
                state, metrics = step(state, put(tiny.batch(i)), given)
                seen.append(jax.device_get(metrics))
        return jax.device_get((state.params, state.extra)), seen

    return take


def test_the_model_as_its_own_teacher_is_bit_for_bit_a_loaded_copy(steps):
    once, twice = steps(True, {}), steps(False, {"teacher": tiny.PARAMS})
    jax.tree.map(np.testing.assert_array_equal, once, twice)
    assert float(once[1][1]["train/divergence"]) > 0  # of the masked model from the unmasked one
    jax.tree.map(np.testing.assert_array_equal, once[0][0], tiny.PARAMS)


def test_a_step_that_holds_the_teacher_once_takes_no_second_copy(steps):  # and another step needs one
    with pytest.raises(ValueError, match="pytree structure"):
        steps(True, {"teacher": tiny.PARAMS})
    with pytest.raises(ValueError, match="pytree structure"):
        steps(False, {})
