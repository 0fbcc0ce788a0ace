"""What every averaging is: a mean of the parameters over the steps, kept beside them in the state."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax

from jaxpt.config.choice import Choice
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs

Measured = Literal["params", "mean", "both"]


@dataclass(frozen=True)
class Averaging(Choice, kind="averaging", room="jaxpt.optim.averagings", default="none"):
    """A float32 mean of the parameters, sharded as they are; `measured` says what evaluations measure."""

    keeps: ClassVar[bool] = True  # there is a mean

    @property
    def measures(self) -> Measured:
        """What evaluations measure."""
        return "params"

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range; `where` is the section's key."""

    def update(self, mean: Params, params: Params, specs: Specs, step: jax.Array) -> Params:
        """Returns the mean after a step that left `params`; `step` is its number, from 0.

        What a rule of its own moves (`ParamSpec.state`: a router's selection bias) is copied, not averaged.
        """
        raise NotImplementedError
