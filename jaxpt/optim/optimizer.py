"""What every optimizer is: a frozen dataclass of options that builds an optax transformation for one parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import optax

from jaxpt.config.choice import Choice, option
from jaxpt.errors import JaxptError
from jaxpt.models.specs import ParamSpec, Specs

UpdateSize = Literal["adam", "rms", "spectral"]


@dataclass(frozen=True)
class Optimizer(Choice, kind="optimizer", room="jaxpt.optim.optimizers", default="adamw"):
    """An optimizer's options; `jaxpt.optim.chain.make_optimizer` makes it one that a train step can use.

    `moments` says which states are moments of the gradient, and of which power: those named 1 move as the gradient
    does where a parameter is rescaled, those named 2 as its square. A reshape carries them along, no others. `epsilons`
    says which options are added to the gradient's size (1) or to its square (2): under µP they fall as gradients do.
    """

    learning_rate: float = option(3e-4, "peak of the schedule; a stage may state its own")
    weight_decay: float = option(0.1, "multiplied by the learning rate; gains and biases do not decay")
    clip_norm: float | None = option(1.0, "limit of the gradient's global norm; None: no clipping")

    moments: ClassVar[Mapping[str, int]] = {}
    epsilons: ClassVar[Mapping[str, int]] = {}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """Returns what turns clipped gradients into the direction of a step, without learning rate and weight decay.

        It is asked once per parameter and sees that parameter alone, one layer and one expert at a time: `specs` has
        the form of the parameter tree with this one entry, whose axes do not include the stacked `layers` and
        `experts`. So a rule for matrices never takes `layers` for a dimension of a matrix. Its state is named by the
        fields of its named tuples (`jaxpt.optim.state_names`).
        """
        raise NotImplementedError

    def state_axes(self, name: str, spec: ParamSpec) -> tuple[str | None, ...] | None:
        """Returns the axis that each dimension of a state follows, where that cannot be inferred from shapes.

        Args:
            name: of the state.
            spec: of the parameter, without stacked axes.

        Returns:
            One entry per dimension of the state, None for a dimension that follows no axis; or None for all: infer it.
        """
        return None

    def rate(self, spec: ParamSpec) -> float:
        """Returns what the learning rate is multiplied by for a parameter, where the optimizer has several rates."""
        return 1.0

    def update_size(self, spec: ParamSpec) -> UpdateSize:
        """Returns how the updates of a parameter are sized, which decides its learning rate under µP.

        "adam": entries of about 1, and they add up over the fan-in. "rms": a matrix of equal singular values whose
        entries have a constant root mean square (Muon scaled by sqrt(max(fan_in, fan_out))). "spectral": one whose
        spectral norm is constant where fan-in and fan-out grow alike (Muon scaled by sqrt(max(1, fan_out / fan_in))).

        Args:
            spec: of the parameter, with its stacked axes.
        """
        return "adam"

    def with_eps(self, factor: float) -> Self:
        """Returns the optimizer with each of `epsilons` multiplied by `factor`, or by its square."""
        if factor == 1:
            return self
        changes: dict[str, Any] = {name: getattr(self, name) * factor**power for name, power in self.epsilons.items()}
        return replace(self, **changes)

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range; `where` is the section's key, e.g. `config.optimizer`."""
        for name in ("learning_rate", "weight_decay"):
            not_negative(f"{where}.{name}", getattr(self, name))
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise JaxptError(f"{where}.clip_norm is {self.clip_norm}, it must be above 0 (None: no clipping)")


def not_negative(where: str, value: float) -> None:
    """Raises a JaxptError for a number below 0."""
    if not value >= 0:
        raise JaxptError(f"{where} is {value}, it must be at least 0")


def positive(where: str, value: float) -> None:
    """Raises a JaxptError for a number that is not above 0."""
    if not value > 0:
        raise JaxptError(f"{where} is {value}, it must be above 0")


def fraction(where: str, value: float) -> None:
    """Raises a JaxptError for a number outside 0 ≤ x < 1, as the decay rate of a mean must be."""
    if not 0 <= value < 1:
        raise JaxptError(f"{where} is {value}, it must be at least 0 and below 1")
