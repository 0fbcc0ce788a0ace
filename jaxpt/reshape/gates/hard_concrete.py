"""Hard-concrete gates (Louizos et al. 2018, arXiv 1712.01312), with the constants of Sheared LLaMA's released code."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.reshape.gate import Gate


@dataclass(frozen=True)
class HardConcrete(Gate):
    """z = clip(sigmoid((logit(u) + log α) / T) · (b - a) + a, 0, 1), u uniform: random, with mass at exactly 0 and 1.

    The trained number is log α. Positions that stay end as exactly 1.
    """

    temperature: float = option(2 / 3, "of the concrete distribution")
    low: float = option(-0.1, "left end of the stretched interval, below 0")
    high: float = option(1.1, "right end of the stretched interval, above 1")
    eps: float = option(1e-6, "how far uniform draws and probabilities stay from 0 and 1")
    mean: float = option(5.0, "of log alpha at first, before the limit")
    std: float = option(0.01, "deviation of log alpha at first")
    limit: float = option(100.0, "alpha is kept between 1 / limit and limit")

    def __post_init__(self) -> None:
        if not self.low < 0:
            raise JaxptError(f"low is {self.low}, it must be below 0")
        if not self.high > 1:
            raise JaxptError(f"high is {self.high}, it must be above 1")
        for name in ("temperature", "eps"):
            if not getattr(self, name) > 0:
                raise JaxptError(f"{name} is {getattr(self, name)}, it must be above 0")
        if not self.limit > 1:
            raise JaxptError(f"limit is {self.limit}, it must be above 1")

    @property
    def first(self) -> tuple[float, float]:
        """Of log α."""
        return self.mean, self.std

    @property
    def bounds(self) -> tuple[float, float]:
        """Of log α."""
        return -math.log(self.limit), math.log(self.limit)

    def gates(self, trained: jax.Array, key: jax.Array) -> jax.Array:
        """Returns one draw for each position."""
        u = jax.random.uniform(key, trained.shape, minval=self.eps, maxval=1 - self.eps)
        y = jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + trained) / self.temperature)
        return self._stretched(y)

    def still(self, trained: jax.Array) -> jax.Array:
        """Returns the gates without noise (Louizos et al., equation 13)."""
        return self._stretched(jax.nn.sigmoid(trained))

    def retention(self, trained: jax.Array, share: jax.Array) -> jax.Array:
        """Returns P(z > 0) (Louizos et al., equation 12)."""
        edge = -self.low / (self.high - self.low)
        zero = jax.nn.sigmoid(self.temperature * math.log(edge / (1 - edge)) - trained)
        return 1 - jnp.clip(zero, self.eps, 1 - self.eps)

    def _stretched(self, y: jax.Array) -> jax.Array:
        return jnp.clip(y * (self.high - self.low) + self.low, 0.0, 1.0)
