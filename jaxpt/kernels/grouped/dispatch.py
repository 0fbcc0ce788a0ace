"""The grouped product by an implementation that applies: by name, or the first of a preference that does not refuse."""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxpt.kernels.choice import Chosen, Preferred, first_that_applies, parse_names
from jaxpt.kernels.grouped import dense, megablox, mosaic, ragged_dot, tiled
from jaxpt.kernels.grouped.call import GroupedCall, call_of


class GroupedKernel(Protocol):
    """An implementation; each is a module of this folder."""

    def refuses(self, call: GroupedCall) -> str | None:
        """Returns why this kernel does not apply to `call`, None where it does."""

    def run(self, x: jax.Array, w: jax.Array, sizes: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
        """Returns the product as `grouped_matmul` defines it, `[M, N]`."""


IMPLEMENTATIONS: dict[str, GroupedKernel] = {
    "tiled": tiled,
    "megablox": megablox,
    "mosaic": mosaic,
    "ragged_dot": ragged_dot,
    "dense": dense,
}

PREFERENCES: dict[str, tuple[Preferred, ...]] = {
    "tpu": (Preferred("megablox"), Preferred("ragged_dot")),
    "gpu": (Preferred("mosaic"), Preferred("ragged_dot")),
    "cpu": (Preferred("tiled"), Preferred("ragged_dot")),
}


def parse_preference(value: str, where: str = "grouped_matmul") -> tuple[str, ...]:
    """Returns the names in `value`, one or several separated by commas; () for "auto", each platform's own list.

    Raises:
        JaxptError: an unknown name.
    """
    return parse_names(value, list(IMPLEMENTATIONS), where)


def choose(call: GroupedCall, names: Sequence[str] = ()) -> Chosen:
    """Returns the first implementation of `names` (empty: of the platform's preference) that takes `call`.

    Raises:
        JaxptError: each refuses, with the reasons.
    """
    order = [Preferred(name) for name in names] or PREFERENCES.get(call.platform, (Preferred("ragged_dot"),))
    asked = f"grouped_matmul={','.join(names)}"
    return first_that_applies(IMPLEMENTATIONS, order, call, call.rows, asked, "ragged_dot")


def grouped_matmul(
    x: jax.Array,
    w: jax.Array,
    sizes: jax.Array,
    *,
    implementation: str = "auto",
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Returns `[M, N]`: the first `sizes[0]` rows of x times `w[0]`, the next `sizes[1]` times `w[1]`, and so on.

    Args:
        x: `[M, K]`, rows sorted by group.
        w: `[E, K, N]`.
        sizes: rows of each group, `[E]` int32; rows after their sum give zero.
        implementation: a name from `IMPLEMENTATIONS`, several separated by commas (the first that applies), or "auto":
            the list of the platform in `PREFERENCES`.
        precision: of the products.

    Raises:
        JaxptError: what was asked for by name does not apply, with the reason.
    """
    chosen = choose(call_of(x, w, precision), parse_preference(implementation))
    return IMPLEMENTATIONS[chosen.name].run(x, w, sizes.astype(jnp.int32), precision)
