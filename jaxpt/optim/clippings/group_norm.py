"""Clipping by the norm of each group of parameters."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs, flatten
from jaxpt.optim.axis_groups import axis_groups, group_norms
from jaxpt.optim.clipping import Clipping, ClipState, within
from jaxpt.optim.optimizer import positive
from jaxpt.optim.pieces import tree_like


@dataclass(frozen=True)
class GroupNorm(Clipping):
    """The gradient of each group of parameters, those with the same axes, is scaled down by itself."""

    limit: float = option(1.0, "of the norm of a group's gradient")

    def check(self, where: str) -> None:
        """As `Clipping.check`."""
        positive(f"{where}.limit", self.limit)

    def gradients(self, grads: Params, state: ClipState, specs: Specs) -> tuple[Params, ClipState]:
        """As `Clipping.gradients`."""
        groups, out = axis_groups(specs), dict(flatten(grads))
        factors = within(jnp.asarray(group_norms(grads, groups)), self.limit)
        for i, paths in enumerate(groups.values()):
            out |= {path: out[path] * factors[i] for path in paths}
        return tree_like(specs, out), state
