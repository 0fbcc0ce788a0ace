"""ZClip (Kumar et al. 2025, arXiv 2504.02507): the global norm against what it usually is."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.params import Params
from jaxpt.models.specs import Specs
from jaxpt.optim.chain import global_norm
from jaxpt.optim.clipping import Clipping, ClipState, within
from jaxpt.optim.optimizer import fraction, positive


@dataclass(frozen=True)
class ZClip(Clipping):
    """A norm more than `z` deviations above its running mean is scaled down to mean + z² / (its own z) deviations."""

    decay: float = option(0.97, "of the running mean and variance of the norm")
    z: float = option(2.5, "deviations above the mean from which on a norm is scaled down")
    warmup: int = option(25, "first steps, which only give mean and variance")

    def check(self, where: str) -> None:
        """As `Clipping.check`."""
        fraction(f"{where}.decay", self.decay)
        positive(f"{where}.z", self.z)
        if self.warmup < 2:
            raise JaxptError(f"{where}.warmup is {self.warmup}, it must be at least 2")

    def init(self, specs: Specs) -> ClipState:
        """As `Clipping.init`: mean and variance of the norm, and the steps they are of."""
        return {"mean": jnp.float32(0), "variance": jnp.float32(0), "steps": jnp.int32(0)}

    def gradients(self, grads: Params, state: ClipState, specs: Specs) -> tuple[Params, ClipState]:
        """As `Clipping.gradients`; the running mean takes the norm as it was clipped."""
        mean, variance, steps = (jnp.asarray(state[name]) for name in ("mean", "variance", "steps"))
        norm, warm = global_norm(grads), steps >= self.warmup
        deviation = jnp.sqrt(variance)
        score = (norm - mean) / (deviation + 1e-6)
        limit = mean + self.z**2 / jnp.maximum(score, self.z) * deviation
        clipped = jnp.where(warm & (score > self.z), jnp.minimum(norm, limit), norm)
        count = (steps + 1).astype(jnp.float32)  # of the warmup: plain mean and variance (Welford)
        first_mean = mean + (norm - mean) / count
        first_variance = variance + ((norm - mean) * (norm - first_mean) - variance) / count
        later_mean = self.decay * mean + (1 - self.decay) * clipped
        later_variance = self.decay * variance + (1 - self.decay) * jnp.square(clipped - later_mean)
        after = {
            "mean": jnp.where(warm, later_mean, first_mean),
            "variance": jnp.where(warm, later_variance, first_variance),
            "steps": steps + 1,
        }
        factor = within(norm, clipped)
        return jax.tree.map(lambda g: g * factor, grads), after
