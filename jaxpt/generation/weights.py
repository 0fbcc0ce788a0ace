"""A model's weights as generation reads them: one array for each layer and name, cast once."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.models.block import WEIGHTS
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.layer import outer_cast
from jaxpt.models.params import Params, branch, leaf
from jaxpt.sharding.platform import platform


class LaidOutWeights(NamedTuple):
    """What stands outside the blocks, and each layer's leaves by name (no `layers` axis), in order of the layers.

    A loop over stacked layers would copy each layer's weights out of the stack at every token.
    """

    outer: Params
    layers: tuple[Mapping[str, jax.Array], ...]

    @property
    def bytes(self) -> int:
        """How much memory they take, on all devices together."""
        return sum(a.nbytes for a in jax.tree.leaves((self.outer, self.layers)))


def held_compute(compute: Compute) -> Compute:
    """Returns what generation multiplies in: on a CPU float32 for every dtype, as its products of less are slow."""
    return Compute(dtype="float32") if platform() == "cpu" else compute


def lay_out(config: ModelConfig, params: Params, compute: Compute) -> LaidOutWeights:
    """Returns the weights laid out for generation; `params` are left as they are.

    What `compute.dtype` rounds is rounded. On a CPU bfloat16 weights are then held as float32, at twice the memory, and
    multiplied as such: XLA's product of bfloat16 vectors takes ten times as long there.

    Args:
        config: the model.
        params: its parameters; layers keep the sharding of their stacks.
        compute: `dtype` is what the weights are rounded to.
    """
    held = held_compute(compute).jnp_dtype

    def weight(a: jax.Array) -> jax.Array:
        return a.astype(compute.jnp_dtype).astype(held)

    layers: list[dict[str, jax.Array]] = [{} for _ in config.layers]
    for structure, stack in branch(params, "blocks").items():
        assert isinstance(stack, Mapping), structure
        for name in stack:
            a = leaf(stack, name)
            a = weight(a) if name in WEIGHTS else a
            for number, one in zip(config.layers_of(structure), _unstacked(a)):
                layers[number][name] = one
    return LaidOutWeights(jax.tree.map(jnp.asarray, outer_cast(params, weight)), tuple(layers))


def _unstacked(a: jax.Array) -> list[jax.Array]:
    """The entries of the leading axis, each where its part of the stack is."""
    where = None
    if isinstance(a.sharding, NamedSharding):
        where = NamedSharding(a.sharding.mesh, PartitionSpec(*a.sharding.spec[1:]))
    return _splitting(a.shape[0], where)(a)


@functools.lru_cache(maxsize=64)
def _splitting(count: int, where: NamedSharding | None) -> Callable[[jax.Array], list[jax.Array]]:
    """What takes a stack apart: kept, as a run lays the same model out at every checkpoint that it scores."""
    return jax.jit(lambda a: [a[i] for i in range(count)], out_shardings=where and [where] * count)
