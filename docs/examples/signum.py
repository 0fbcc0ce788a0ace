"""An optimizer: Signum (Bernstein et al. 2018, arXiv 1802.04434, algorithm 2), of optax's pieces.

PYTHONPATH=docs/examples jaxpt train --config=… --workdir=… --config.optimizer.name=signum:Signum
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import optax

from jaxpt.config.choice import option
from jaxpt.optim.optimizer import Optimizer, Specs, fraction


@dataclass(frozen=True)
class Signum(Optimizer):
    """The sign of a mean of gradients; learning rate, weight decay and clipping come from `Optimizer`."""

    momentum: float = option(0.9, "decay rate of the mean")

    moments: ClassVar[Mapping[str, int]] = {"ema": 1}  # a reshape carries `ema` along as it does the gradient

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """What turns clipped gradients into a direction; its state is `{count, ema}`, on disk too."""
        return optax.chain(optax.ema(self.momentum, debias=False), optax.scale_by_sign())

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        fraction(f"{where}.momentum", self.momentum)
