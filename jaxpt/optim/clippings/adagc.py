"""AdaGC (Wang et al. 2025, arXiv 2502.11034): each tensor's norm against its own running mean."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs, flatten
from jaxpt.optim.clipping import Clipping, ClipState, within
from jaxpt.optim.optimizer import fraction
from jaxpt.optim.pieces import tree_like


@dataclass(frozen=True)
class AdaGC(Clipping):
    """The gradient of each tensor, one layer and one expert at a time, is limited to `times` its running mean norm."""

    times: float = option(1.05, "the running mean that a norm may reach")
    decay: float = option(0.98, "of the running mean of clipped norms")
    warmup: int = option(100, "first steps, whose least norm the running mean starts from")

    def check(self, where: str) -> None:
        """As `Clipping.check`."""
        fraction(f"{where}.decay", self.decay)
        if not self.times >= 1:
            raise JaxptError(f"{where}.times is {self.times}, it must be at least 1")
        if self.warmup < 1:
            raise JaxptError(f"{where}.warmup is {self.warmup}, it must be at least 1")

    def init(self, specs: Specs) -> ClipState:
        """As `Clipping.init`: a running mean norm per tensor, and the steps so far."""
        means = {path: jnp.zeros(spec.pieces, jnp.float32) for path, spec in flatten(specs).items()}
        return {"means": tree_like(specs, means), "steps": jnp.int32(0)}

    def gradients(self, grads: Params, state: ClipState, specs: Specs) -> tuple[Params, ClipState]:
        """As `Clipping.gradients`."""
        steps, means = jnp.asarray(state["steps"]), state["means"]
        assert not hasattr(means, "shape"), "a tree of them"
        table, out, after = flatten(specs), dict(flatten(grads)), dict(flatten(means))
        for path, mean in after.items():
            inner = tuple(range(len(table[path].pieces), len(table[path].shape)))
            norm = jnp.sqrt(jnp.sum(jnp.square(out[path].astype(jnp.float32)), axis=inner))
            warm, limit = steps >= self.warmup, self.times * mean
            factor = jnp.where(warm, within(norm, limit), 1.0)
            least = jnp.where(steps == 0, norm, jnp.minimum(mean, norm))
            after[path] = jnp.where(warm, self.decay * mean + (1 - self.decay) * norm * factor, least)
            out[path] = out[path] * jnp.expand_dims(factor, inner)
        return tree_like(specs, out), {"means": tree_like(specs, after), "steps": steps + 1}
