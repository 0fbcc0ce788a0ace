"""An exponential moving average of the parameters (Polyak averaging with forgetting)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs
from jaxpt.optim.averaging import Averaging, Measured


@dataclass(frozen=True)
class Ema(Averaging):
    """mean ← mean + (1 - d) · (parameters - mean) after each step, with d = min(decay, (1 + step) / (10 + step))."""

    decay: float = option(0.999, "of the mean per step, smaller in the first steps of a run")
    measured: Measured = option("both", "what evaluations measure: params, mean, or both")

    @property
    def measures(self) -> Measured:
        """As `Averaging.measures`."""
        return self.measured

    def check(self, where: str) -> None:
        """As `Averaging.check`."""
        if not 0 < self.decay < 1:
            raise JaxptError(f"{where}.decay is {self.decay}, it must be between 0 and 1")

    def update(self, mean: Params, params: Params, specs: Specs, step: jax.Array) -> Params:
        """As `Averaging.update`; what no step moves stays as it is, to the bit."""
        done = step.astype(jnp.float32)
        rest = 1.0 - jnp.minimum(self.decay, (1.0 + done) / (10.0 + done))
        moved = lambda m, p, spec: p if spec.state else m + rest * (p - m)  # noqa: E731
        return jax.tree.map(moved, mean, params, specs)
