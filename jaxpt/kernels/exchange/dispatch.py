"""The exchange by an implementation that applies: by name, or the first of a preference that does not refuse."""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxpt.kernels.choice import Chosen, Preferred, first_that_applies, parse_names
from jaxpt.kernels.exchange import padded, ragged
from jaxpt.kernels.exchange.call import AXIS, Arrived, ExchangeCall, call_of


class ExpertExchange(Protocol):
    """An implementation; each is a module of this folder."""

    def refuses(self, call: ExchangeCall) -> str | None:
        """Returns why this implementation does not apply to `call`, None where it does."""

    def run(self, rows: jax.Array, sizes: jax.Array, came: jax.Array) -> Arrived:
        """Returns what arrives as `exchange` defines it; `came [ways, E / ways]`: rows from each device by expert."""


IMPLEMENTATIONS: dict[str, ExpertExchange] = {"ragged": ragged, "padded": padded}

PREFERENCES: dict[str, tuple[Preferred, ...]] = {
    "tpu": (Preferred("ragged"), Preferred("padded")),
    "gpu": (Preferred("padded"),),  # openxla/xla 8077: the ragged one could corrupt gradients; by name it is compared
    "cpu": (Preferred("padded"),),
}


def parse_preference(value: str, where: str = "expert_exchange") -> tuple[str, ...]:
    """Returns the names in `value`, one or several separated by commas; () for "auto", each platform's own list.

    Raises:
        JaxptError: an unknown name.
    """
    return parse_names(value, list(IMPLEMENTATIONS), where)


def choose(call: ExchangeCall, names: Sequence[str] = ()) -> Chosen:
    """Returns the first implementation of `names` (empty: of the platform's preference) that takes `call`.

    Raises:
        JaxptError: each refuses, with the reasons.
    """
    order = [Preferred(name) for name in names] or PREFERENCES.get(call.platform, (Preferred("padded"),))
    asked = f"expert_exchange={','.join(names)}"
    return first_that_applies(IMPLEMENTATIONS, order, call, call.rows, asked, "padded")


def exchange(rows: jax.Array, sizes: jax.Array, *, implementation: str = "auto") -> tuple[Arrived, jax.Array]:
    """Sends rows to the devices of their experts, within `jax.shard_map` over a mesh with the axis `expert`.

    Args:
        rows: `[N, D]` of this device, sorted by expert; those after the sum of sizes go nowhere.
        sizes: rows for each expert, `[ways, E / ways]` int32: device w holds the experts of row w.
        implementation: a name from `IMPLEMENTATIONS`, several separated by commas (the first that applies), or "auto":
            the list of the platform in `PREFERENCES`.

    Returns:
        What arrived, and how many rows of it are for each of this device's experts, `[E / ways]` int32.

    Raises:
        JaxptError: what was asked for by name does not apply, with the reason.
    """
    (n, d), (ways, groups) = rows.shape, sizes.shape
    call = call_of(n, d, groups, ways, str(rows.dtype))
    chosen = choose(call, parse_preference(implementation))
    came = jax.lax.all_to_all(sizes, AXIS, 0, 0, tiled=True)
    return IMPLEMENTATIONS[chosen.name].run(rows, sizes, came), jnp.sum(came, axis=0)
