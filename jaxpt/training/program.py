"""What a plan becomes on the devices: the mesh, the optimizer, a train step per kind of stage, and the first state."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from jaxpt.models.init import init_params
from jaxpt.models.mup import initial_specs
from jaxpt.models.params import Array
from jaxpt.models.specs import param_specs
from jaxpt.optim.chain import BuiltOptimizer, make_optimizer
from jaxpt.training.frozen import open_frozen
from jaxpt.training.run_plan import RunPlan
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import Layout, State, make_layout, new_state
from jaxpt.training.step import Step, StepSpec, make_step


class Program(NamedTuple):
    """What computes a run: `steps` are its jitted train steps, by what each depends on."""

    layout: Layout
    optimizer: BuiltOptimizer
    steps: Mapping[StepSpec, Step]


def make_program(plan: RunPlan, devices: Sequence[jax.Device] | None = None) -> Program:
    """Lays the model out on the mesh and makes the optimizer and every stage's step, none of them compiled yet.

    Raises:
        JaxptError: a mesh that does not fit the devices or the model, an unknown optimizer or objective, rows that do
            not divide, a name in `freeze` that the model lacks.
    """
    layout = make_layout(plan.model, plan.config.sharding, devices)
    optimizer = make_optimizer(plan.config.optimizer, param_specs(plan.model), plan.scaling)
    safeguards = Safeguards.of(plan.config)
    steps: dict[StepSpec, Step] = {}
    for stage in plan.stages:
        if stage.step not in steps:
            where = f"config.stages[{stage.index}]"
            frozen = {
                n: m.model for n, m in open_frozen(stage.config.objective, f"{where}.objective", plan.frozen).items()
            }
            steps[stage.step] = make_step(stage.step, optimizer, layout, where, frozen, safeguards)
    return Program(layout, optimizer, steps)


def drawn_state(plan: RunPlan, program: Program) -> State[Array]:
    """Returns the first state of a run that starts from nothing: parameters drawn from its seed."""
    layout, optimizer, _ = program
    specs = initial_specs(plan.model, plan.scaling)
    return new_state(layout, optimizer, init_params(plan.model, plan.config.seed, layout.params, specs))
