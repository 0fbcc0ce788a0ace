"""AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import optax

from jaxpt.config.choice import option
from jaxpt.models.specs import Specs
from jaxpt.optim.optimizer import Optimizer, fraction, positive


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Mean of the gradient over the root of the mean of its square, both corrected for their start at 0."""

    beta1: float = option(0.9, "decay rate of the gradient's mean")
    beta2: float = option(0.95, "decay rate of the squared gradient's mean")
    eps: float = option(1e-8, "added to the root of the squared gradient's mean")

    moments: ClassVar[Mapping[str, int]] = {"mu": 1, "nu": 2}
    epsilons: ClassVar[Mapping[str, int]] = {"eps": 1}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """`scale_by_adam`; state `{count, mu, nu}`."""
        return optax.scale_by_adam(self.beta1, self.beta2, self.eps)

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        fraction(f"{where}.beta1", self.beta1)
        fraction(f"{where}.beta2", self.beta2)
        positive(f"{where}.eps", self.eps)
