"""What an implementation of the grouped product is asked for: the facts by which it says whether it applies."""

from dataclasses import dataclass

import jax

from jaxpt.kernels.machine import INSTALLED, Versions, version_in
from jaxpt.sharding.platform import device_kind, platform


@dataclass(frozen=True)
class GroupedCall:
    """One product on one device, without its arrays: rows `[rows, width_in]`, matrices `[groups, width_in, width_out]`.

    `precision` is its name ("HIGHEST"), None for the platform's own. The last three as in attention's `Call`.
    """

    rows: int
    groups: int
    width_in: int
    width_out: int
    dtype: str
    precision: str | None = None
    platform: str = "cpu"
    device_kind: str = ""
    versions: Versions = ()

    def version(self, library: str) -> tuple[int, ...] | None:
        """Returns the version of a library as numbers, None where it is not installed."""
        return version_in(self.versions, library)


def call_of(
    x: jax.Array | jax.ShapeDtypeStruct, w: jax.Array | jax.ShapeDtypeStruct, precision: jax.lax.Precision | None = None
) -> GroupedCall:
    """Returns the call with rows `x [M, K]` and matrices `w [E, K, N]`, both of one device of the mesh in force."""
    return GroupedCall(
        x.shape[0],
        w.shape[0],
        w.shape[1],
        w.shape[2],
        str(x.dtype),
        precision=None if precision is None else precision.name,
        platform=platform(),
        device_kind=device_kind(),
        versions=INSTALLED,
    )
