"""Each parameter's multipliers of the learning rate, the weight decay and ε, read off the axis table."""

from typing import NamedTuple

from jaxpt.models.mup import Role, Scaling, role
from jaxpt.models.specs import ParamSpec
from jaxpt.optim.optimizer import UpdateSize

# a rule's learning rate goes with m to this power, m the multiple of the fan-in; a parameter of another role has 1
RATE: dict[UpdateSize, dict[Role, float]] = {
    "adam": {"matrix": -1.0, "output": -1.0},
    "rms": {"matrix": -0.5, "output": -1.0},
    "spectral": {"matrix": 0.0, "output": -0.5},
}
DECAY = {"independent": -1.0, "sqrt": -0.5, "none": 0.0}  # power of the learning rate's multiplier


class Multipliers(NamedTuple):
    """What the run's learning rate, weight decay and the optimizer's ε are multiplied by for one parameter."""

    learning_rate: float
    weight_decay: float
    eps: float = 1.0


def multipliers(spec: ParamSpec, size: UpdateSize = "adam", scaling: Scaling | None = None) -> Multipliers:
    """Returns the multipliers of a parameter.

    With m the multiple of its fan-in and r that of the depth, a matrix has η / m under Adam (Yang et al. 2022, table
    8), η / √m where updates have a constant root mean square, η where they have a constant spectral norm; a parameter
    of a layer also r^(α - 1) (Dey et al. 2025, table 1). Decay is multiplied by the learning rate, so its multiplier
    undoes that of the width. All gradients fall with the stream's width, those of a layer with r^-α: so does ε.

    Args:
        spec: the parameter's.
        size: how the optimizer's updates of it are sized (`Optimizer.update_size`).
        scaling: the model against the base shape; None: standard parameterisation, in which only decay differs.
    """
    decay = 1.0 if spec.decay else 0.0
    if scaling is None:
        return Multipliers(1.0, decay)
    rate = scaling.width(spec) ** RATE[size].get(role(spec), 0.0)
    decay *= rate ** DECAY[scaling.config.weight_decay]
    in_layer = spec.stacked and scaling.alpha is not None
    eps = 1.0
    if scaling.config.eps == "scaled":
        eps = (scaling.branch if in_layer else 1.0) / scaling.widths["embed"]
    depth = scaling.depth ** ((scaling.alpha or 0.0) - 1.0) if in_layer else 1.0
    return Multipliers(rate * depth, decay, eps)
