"""What a compiled step is given besides state and batch: traced values, so that none of them recompiles."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.objectives.objective import NONE, Objective, Params, Progress

Scalar = jax.Array | np.generic | jax.ShapeDtypeStruct


class StepArguments(NamedTuple):
    """The learning rate, and what an objective asks for.

    `rates` are the learning rates of its optimizer groups, `scheduled` its own scheduled values, all float32 scalars;
    `seed` and `step` (uint32) make its random key; `frozen` holds the parameters of its frozen models.
    """

    learning_rate: Scalar
    rates: Mapping[str, Scalar] = NONE
    scheduled: Mapping[str, Scalar] = NONE
    seed: Scalar = np.uint32(0)
    step: Scalar = np.uint32(0)
    frozen: Mapping[str, Params] = NONE


def step_arguments(
    objective: Objective,
    progress: Progress,
    learning_rate: float,
    peak: float,
    *,
    seed: int = 0,
    step: int = 0,
    frozen: Mapping[str, Params] | None = None,
) -> StepArguments:
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
    scalars = ({name: np.float32(v) for name, v in values.items()} for values in (rates, scheduled))
    seeds = np.uint32(seed % 2**32), np.uint32(step)
    return StepArguments(np.float32(learning_rate), *scalars, *seeds, frozen or {})


def abstract_arguments(objective: Objective, frozen: Mapping[str, Params]) -> StepArguments:
    """Shapes and dtypes of the arguments; `frozen` are trees of `ShapeDtypeStruct` with shardings."""
    scalar, whole = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((), np.uint32)
    rates, scheduled = dict.fromkeys(objective.groups(), scalar), dict.fromkeys(objective.scheduled(), scalar)
    return StepArguments(scalar, rates, scheduled, whole, whole, frozen)
