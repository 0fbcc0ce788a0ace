"""Deterministic ReLU gates with a retention score of their own (DDP, arXiv 2603.08065)."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.reshape.gate import Gate
from jaxpt.reshape.ops import Array

FLOOR = 1e-2  # of a gate that has to stay for the exact count though it was trained to 0: it begins near nothing


@dataclass(frozen=True)
class Relu(Gate):
    """z = max(θ, 0); retention s = clip(1.2 · sigmoid(2.4 (θ - μ) / μ) - 0.1, 0, 1), μ falling over the training.

    Gates of positions that stay are not 1: they are folded into the weights once.
    """

    start: float = option(0.5, "of mu, the gate that counts half")
    end: float = option(0.05, "of mu at the end, where every gate above it counts whole")
    binary: float = option(1.0, "weight of the mean of s (1 - s), which pushes scores to 0 or 1")
    mean: float = option(1.0, "of the gates at first")
    std: float = option(0.0, "deviation of the gates at first")

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not getattr(self, name) > 0:
                raise JaxptError(f"{name} is {getattr(self, name)}, it must be above 0")
        if self.binary < 0:
            raise JaxptError(f"binary is {self.binary}, it must not be below 0")

    @property
    def first(self) -> tuple[float, float]:
        """Of θ."""
        return self.mean, self.std

    def gates(self, trained: jax.Array, key: jax.Array) -> jax.Array:
        """Returns max(θ, 0); nothing is random."""
        return jax.nn.relu(trained)

    def still(self, trained: jax.Array) -> jax.Array:
        """Returns max(θ, 0)."""
        return jax.nn.relu(trained)

    def retention(self, trained: jax.Array, share: jax.Array) -> jax.Array:
        """Returns s, with μ = start - (start - end) √share.

        Its gradient is that of the score before it is clipped: at θ = 1 it is clipped from the first step on, and the
        constraint would move nothing.
        """
        mu = self.start - (self.start - self.end) * jnp.sqrt(share)
        score = jax.nn.sigmoid((trained - mu) * 2.4 / mu) * 1.2 - 0.1
        return score + jax.lax.stop_gradient(jnp.clip(score, 0.0, 1.0) - score)

    def penalty(self, retention: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the mean over axes of the mean of s (1 - s), weighted."""
        means = [jnp.mean(s * (1 - s)) for s in retention.values()]
        return self.binary * sum(means, jnp.zeros(())) / len(means)

    def left(self, trained: Array) -> Array:
        """Returns θ, at least `FLOOR`."""
        return np.maximum(np.asarray(trained), np.float32(FLOOR))
