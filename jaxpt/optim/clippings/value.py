"""Clipping entry by entry."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs
from jaxpt.optim.clipping import Clipping, ClipState
from jaxpt.optim.optimizer import positive


@dataclass(frozen=True)
class EntryLimit(Clipping):
    """Each entry of a gradient is cut to [-largest, largest]; this changes its direction."""

    largest: float = option(1.0, "of the magnitude of an entry")

    def check(self, where: str) -> None:
        """As `Clipping.check`."""
        positive(f"{where}.largest", self.largest)

    def gradients(self, grads: Params, state: ClipState, specs: Specs) -> tuple[Params, ClipState]:
        """As `Clipping.gradients`."""
        return jax.tree.map(lambda g: jnp.clip(g, -self.largest, self.largest), grads), state
