"""Each parameter's multipliers of the learning rate and of the weight decay, read off the axis table."""

from typing import NamedTuple

from jaxpt.models.specs import ParamSpec


class Multipliers(NamedTuple):
    """What the run's learning rate and weight decay are multiplied by for one parameter."""

    learning_rate: float
    weight_decay: float


def multipliers(spec: ParamSpec) -> Multipliers:
    """Returns the multipliers of a parameter: standard parameterisation, in which only decay differs."""
    return Multipliers(1.0, 1.0 if spec.decay else 0.0)
