"""Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), as optax has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import optax

from jaxpt.config.choice import option
from jaxpt.models.specs import Specs
from jaxpt.optim.optimizer import Optimizer, fraction


@dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of a mean of gradients: a third to a tenth of AdamW's learning rate, as much more weight decay."""

    beta1: float = option(0.9, "weight of the mean against the gradient at hand, in the sign")
    beta2: float = option(0.99, "decay rate of the mean")

    moments: ClassVar[Mapping[str, int]] = {"mu": 1}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """`scale_by_lion`; state `{count, mu}`."""
        return optax.scale_by_lion(self.beta1, self.beta2)

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        fraction(f"{where}.beta1", self.beta1)
        fraction(f"{where}.beta2", self.beta2)
