"""What every clipping is: a limit on gradients or updates besides `optimizer.clip_norm`, which comes after it."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxpt.config.choice import Choice
from jaxpt.models.params import Array, Params, Tree
from jaxpt.models.specs import Specs

ClipState = Tree[Array]  # what a clipping remembers, small and whole on every device


@dataclass(frozen=True)
class Clipping(Choice, kind="clipping", room="jaxpt.optim.clippings", default="none"):
    """Limits gradients before the optimizer, or what the optimizer makes of them; may remember earlier steps."""

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range; `where` is the section's key."""

    def init(self, specs: Specs) -> ClipState:
        """Returns the first state, {} where nothing is remembered; `specs` is the axis table."""
        return {}

    def gradients(self, grads: Params, state: ClipState, specs: Specs) -> tuple[Params, ClipState]:
        """Returns the gradients within the limit, and the next state."""
        return grads, state

    def updates(self, updates: Params, state: ClipState) -> tuple[Params, ClipState]:
        """Returns what the optimizer made, before the learning rate, within the limit; and the next state."""
        return updates, state


def within(norm: Array, limit: Array | float) -> Array:
    """Returns what to multiply by so that `norm` is at most `limit`."""
    return jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
