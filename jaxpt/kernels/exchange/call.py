"""What an implementation of the exchange is asked for, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from jaxpt.kernels.machine import INSTALLED, Versions
from jaxpt.sharding.platform import device_kind, platform

AXIS = "expert"  # of the mesh: the devices that share the experts


@dataclass(frozen=True)
class ExchangeCall:
    """One exchange, without its arrays: each device sends `[rows, width]` to the experts, `groups` on each of `ways`.

    `mesh` is name and length of each axis, as the exchange crosses the links of a whole mesh. The last three as in
    attention's `Call`.
    """

    rows: int
    width: int
    groups: int
    ways: int
    dtype: str
    mesh: tuple[tuple[str, int], ...] = ()
    platform: str = "cpu"
    device_kind: str = ""
    versions: Versions = ()


@dataclass(frozen=True)
class Arrived:
    """What came to one device.

    Attributes:
        rows: `[M, D]`, some of them room that was not needed.
        expert: `[M]` int32, which of the device's experts a row is for; their number for room.
        back: takes results `[M, D]` and returns them on the devices that the rows came from, `[N, D]` in the order in
            which these sent them; zero for rows that went nowhere.
    """

    rows: jax.Array
    expert: jax.Array
    back: Callable[[jax.Array], jax.Array]


def call_of(rows: int, width: int, groups: int, ways: int, dtype: str) -> ExchangeCall:
    """Returns the call on the mesh in force; arguments as the fields."""
    mesh = tuple(jax.sharding.get_abstract_mesh().shape.items())
    return ExchangeCall(rows, width, groups, ways, dtype, mesh, platform(), device_kind(), INSTALLED)
