"""What an implementation of a layer's products is asked for: the facts by which it says whether it applies."""

import math
from dataclasses import dataclass

import jax

from jaxpt.kernels.machine import INSTALLED, Versions, version_in
from jaxpt.sharding.platform import device_kind, platform


@dataclass(frozen=True)
class MatmulCall:
    """Products of the same shape, without their arrays: `[rows, width_in]` times `[width_in, width_out]`.

    `names` are the matrices that make them ("gate", "up"), for whoever reads of it. The last three as in attention's
    `Call`.
    """

    rows: int
    width_in: int
    width_out: int
    dtype: str
    names: tuple[str, ...] = ()
    platform: str = "cpu"
    device_kind: str = ""
    versions: Versions = ()

    def version(self, library: str) -> tuple[int, ...] | None:
        """Returns the version of a library as numbers, None where it is not installed."""
        return version_in(self.versions, library)


def call_here(rows: int, width_in: int, width_out: int, dtype: str, names: tuple[str, ...] = ()) -> MatmulCall:
    """Returns the call on the devices of the mesh in force."""
    return MatmulCall(rows, width_in, width_out, dtype, names, platform(), device_kind(), INSTALLED)


def call_of(equation: str, x: jax.Array, w: jax.Array) -> MatmulCall:
    """Returns the call of `jaxpt.kernels.matmul.dispatch.matmul` with these arguments."""
    width_in = math.prod(w.shape[: contracted(equation)])
    return call_here(x.size // width_in, width_in, w.size // width_in, str(x.dtype))


def contracted(equation: str) -> int:
    """Returns over how many dimensions an equation sums: the last of its first factor, the first of its second.

    Raises:
        ValueError: an equation of another form.
    """
    factors, _, out = equation.partition("->")
    x, _, w = factors.partition(",")
    count = sum(letter in x for letter in w)
    if count == 0 or x[-count:] != w[:count] or x[:-count] + w[count:] != out:
        raise ValueError(f"{equation!r}: the last dimensions of the first factor must be the first of the second")
    return count
