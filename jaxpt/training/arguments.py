"""What a compiled step is given besides state and batch: traced values, so that none of them recompiles."""

import math
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models.params import Array, Params, Tree
from jaxpt.objectives.objective import NONE, Objective, Progress

S = TypeVar("S")  # a scalar, its shape and dtype, or where it lies
P = TypeVar("P")  # the same of an array of a frozen model


class StepArguments(NamedTuple, Generic[S, P]):
    """The learning rate, and what an objective asks for.

    `rates` are the learning rates of its optimizer groups, `scheduled` its own scheduled values, all float32 scalars;
    `seed` and `step` (uint32) make its random key; `frozen` holds the parameters of its frozen models.
    """

    learning_rate: S
    rates: Mapping[str, S] = NONE
    scheduled: Mapping[str, S] = NONE
    seed: S | np.uint32 = np.uint32(0)
    step: S | np.uint32 = np.uint32(0)
    frozen: Mapping[str, Tree[P]] = NONE


def step_arguments(
    objective: Objective,
    progress: Progress,
    learning_rate: float,
    peak: float,
    *,
    seed: int = 0,
    step: int = 0,
    frozen: Mapping[str, Params] | None = None,
) -> StepArguments[np.generic, Array]:
    """Returns the arguments of one step.

    Args:
        objective: the stage's.
        progress: where in the stage the step is.
        learning_rate: of the model's parameters at this step.
        peak: the stage's highest learning rate; groups without a schedule of their own follow `learning_rate / peak`.
        seed: the run's.
        step: finished steps of the run.
        frozen: parameters of the frozen models.

    Raises:
        JaxptError: a schedule of the objective gives no finite number.
    """
    share = learning_rate / peak if peak else 0.0
    rates = {
        name: group.optimizer.learning_rate * (share if group.schedule is None else group.schedule(progress))
        for name, group in objective.groups().items()
    }
    scheduled = {name: schedule(progress) for name, schedule in objective.scheduled().items()}
    for name, value in {**rates, **scheduled}.items():
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise JaxptError(f"objective {objective.name}: the schedule of {name!r} gives {value!r} at step {step}")
    scalars = [{name: np.float32(v) for name, v in values.items()} for values in (rates, scheduled)]
    seeds = np.uint32(seed % 2**32), np.uint32(step)
    return StepArguments(np.float32(learning_rate), scalars[0], scalars[1], *seeds, frozen or {})


def abstract_arguments(
    objective: Objective, frozen: Mapping[str, Tree[jax.ShapeDtypeStruct]]
) -> StepArguments[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the arguments; `frozen` are trees of `ShapeDtypeStruct` with shardings."""
    scalar, whole = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((), np.uint32)
    rates, scheduled = dict.fromkeys(objective.groups(), scalar), dict.fromkeys(objective.scheduled(), scalar)
    return StepArguments(scalar, rates, scheduled, whole, whole, frozen)
