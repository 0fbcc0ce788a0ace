"""Clipping of updates by what their norm usually is (as Levanter's clip_update_norm)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs
from jaxpt.optim.chain import global_norm
from jaxpt.optim.clipping import Clipping, ClipState, within
from jaxpt.optim.guard import entered, moments_of
from jaxpt.optim.optimizer import positive


@dataclass(frozen=True)
class UpdateNorm(Clipping):
    """An update is scaled down to `sigma` deviations above the mean norm of the last `window` updates, as they came."""

    window: int = option(
        128, "updates that an update is compared with; nothing is clipped before half of them are there"
    )
    sigma: float = option(3.0, "deviations above the mean that the norm of an update may reach")

    def check(self, where: str) -> None:
        """As `Clipping.check`."""
        positive(f"{where}.sigma", self.sigma)
        if self.window < 4:
            raise JaxptError(f"{where}.window is {self.window}, it must be at least 4")

    def init(self, specs: Specs) -> ClipState:
        """As `Clipping.init`: a ring of norms, and how many have entered it."""
        return {"norms": jnp.zeros((1, self.window), jnp.float32), "entries": jnp.int32(0)}

    def updates(self, updates: Params, state: ClipState) -> tuple[Params, ClipState]:
        """As `Clipping.updates`."""
        norms, entries, norm = jnp.asarray(state["norms"]), jnp.asarray(state["entries"]), global_norm(updates)
        mean, deviation, count = moments_of(norms, entries)
        limit = jnp.where(count >= self.window // 2, mean[0] + self.sigma * deviation[0], jnp.inf)
        factor = within(norm, limit)
        after = {
            "norms": entered(norms, entries, norm[None], jnp.isfinite(norm)),
            "entries": entries + jnp.isfinite(norm),
        }
        return jax.tree.map(lambda u: u * factor, updates), after
