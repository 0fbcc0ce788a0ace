"""What a gate is: a trained number per position becomes what multiplies the position, and how likely it stays."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxpt.config.choice import Choice
from jaxpt.reshape.ops import Array


@dataclass(frozen=True)
class Gate(Choice, kind="gate", room="jaxpt.reshape.gates", default="hard_concrete"):
    """How masks are learned; its fields are its options. Arrays have any shape, float32.

    `share` is how much of the training is done, from 0 to 1, a traced scalar.
    """

    @property
    def first(self) -> tuple[float, float]:
        """Mean and deviation of the trained numbers at first."""
        raise NotImplementedError

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Between which two values the trained numbers are kept; None: anywhere."""
        return None

    def gates(self, trained: jax.Array, key: jax.Array) -> jax.Array:
        """Returns what multiplies positions in a training step, drawn with `key` where it is random."""
        raise NotImplementedError

    def still(self, trained: jax.Array) -> jax.Array:
        """Returns what multiplies positions without anything random: the soft mask."""
        raise NotImplementedError

    def retention(self, trained: jax.Array, share: jax.Array) -> jax.Array:
        """Returns how much of each position counts as left, in [0, 1]: 1 minus its sparsity."""
        raise NotImplementedError

    def penalty(self, retention: Mapping[str, jax.Array]) -> jax.Array | None:
        """Returns what is added to the loss besides the constraint, from the retention by axis; None: nothing."""
        return None

    def left(self, trained: Array) -> Array | None:
        """Returns what multiplies the positions that stay in the final mask; None: 1, whatever it was."""
        return None
