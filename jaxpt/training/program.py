"""What a plan becomes on the devices: the mesh, the optimizer, a train step per kind of stage, and the first state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxpt.models.init import init_params
from jaxpt.models.specs import param_specs
from jaxpt.optim.optimizers import Optimizer, make_optimizer
from jaxpt.training.run_plan import RunPlan
from jaxpt.training.state import Layout, State, make_layout, new_opt_state, state_shardings
from jaxpt.training.step import StepSpec, make_step


class Program(NamedTuple):
    """What computes a run: `steps` are its jitted train steps, by what each depends on."""

    layout: Layout
    optimizer: Optimizer
    steps: Mapping[StepSpec, Callable[..., Any]]


def make_program(plan: RunPlan, devices: Sequence[jax.Device] | None = None) -> Program:
    """Lays the model out on the mesh and makes the optimizer and every stage's step, none of them compiled yet.

    Raises:
        JaxptError: a mesh that does not fit the devices or the model, an unknown optimizer or objective, rows that do
            not divide, a name in `freeze` that the model lacks.
    """
    layout = make_layout(plan.model, plan.config.sharding, devices)
    optimizer = make_optimizer(plan.config.optimizer, param_specs(plan.model))
    steps: dict[StepSpec, Callable[..., Any]] = {}
    for i, stage in enumerate(plan.stages):
        if stage.step not in steps:
            steps[stage.step] = make_step(stage.step, optimizer, layout, f"config.stages[{i}]")
    return Program(layout, optimizer, steps)


def drawn_state(plan: RunPlan, program: Program) -> State:
    """Returns the first state of a run that starts from nothing: parameters drawn from its seed."""
    params = init_params(plan.model, plan.config.seed, program.layout.params)
    return {"params": params, "opt_state": fresh_opt_state(program, params)}


def fresh_opt_state(program: Program, params: Mapping[str, Any]) -> Any:
    """Returns the optimizer's first state, made on the devices that will hold it."""
    layout, optimizer, _ = program
    return new_opt_state(optimizer, params, state_shardings(layout, optimizer, params))
