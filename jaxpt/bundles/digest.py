"""A digest of every (leaf, layer) that does not depend on the mesh: storage that flips a bit is found out."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.models.specs import flatten

_SEEDS = (0x9E3779B9, 0x7F4A7C15)  # two independent 32-bit sums


def digest(params: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns 16 hex digits per layer of each leaf (one entry for a leaf that is not stacked).

    Sums modulo 2^32 of a bijective mix of each entry's bits and position (the finaliser of MurmurHash3): sums of
    integers are the same in every order, so shards add up to the same digest on any mesh, and a change of one entry
    always changes it.

    Args:
        params: nested dict of arrays, on one device, on a mesh or on the host; leaves under `blocks` are stacked along
            their first dimension.
    """
    flat = {path: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for path, leaf in flatten(params).items()}
    spread = [leaf for leaf in flat.values() if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable]
    if spread:  # several hosts: each needs all the sums
        everywhere = NamedSharding(spread[0].sharding.mesh, PartitionSpec())
        sums = jax.device_get(jax.jit(_sums, out_shardings=everywhere)(flat))
    else:
        sums = jax.device_get(_sums(flat))
    return {path: [f"{a:08x}{b:08x}" for a, b in sums[path].tolist()] for path in flat}


PIECE = 1 << 22  # entries of a host array that are digested at a time


def slice_digest(value: np.ndarray) -> str:
    """Returns the digest of one layer's slice (or of a leaf without layers) on the host, as `digest` defines it."""
    return hex_digest(slice_sums(value))


def slice_sums(value: np.ndarray, first: int = 0) -> np.ndarray:
    """Returns the two sums `[2]` uint32 of entries that stand from position `first` of a layer's slice on.

    Sums of parts add up (modulo 2^32) to those of the slice. They are taken over pieces, so that a large slice needs
    little memory besides itself.
    """
    flat = np.ascontiguousarray(value).reshape(-1).view(f"u{value.dtype.itemsize}")
    total = np.zeros(2, np.uint32)
    for start in range(0, max(1, flat.size), PIECE):
        total += np.asarray(_piece(flat[start : start + PIECE], np.uint32((first + start) % 2**32)))
    return total


def hex_digest(sums: np.ndarray) -> str:
    """Returns the two sums of a slice as 16 hex digits."""
    return f"{sums[0]:08x}{sums[1]:08x}"


@jax.jit
def _piece(bits: jax.Array, start: jax.Array) -> jax.Array:
    position = jax.lax.iota(jnp.uint32, bits.size) + start
    mixed = [_mix(bits.astype(jnp.uint32) ^ _mix(position + jnp.uint32(seed))) for seed in _SEEDS]
    return jnp.stack([jnp.sum(m, dtype=jnp.uint32) for m in mixed])


@jax.jit
def _sums(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _leaf(leaf, path.startswith("blocks/")) for path, leaf in flat.items()}


def _leaf(leaf: jax.Array, stacked: bool) -> jax.Array:
    """`[layers, 2]` uint32."""
    bits = jax.lax.bitcast_convert_type(leaf, {4: jnp.uint32, 2: jnp.uint16, 1: jnp.uint8}[leaf.dtype.itemsize])
    bits = bits.astype(jnp.uint32)
    if not stacked:
        bits = bits[None]
    position = jnp.zeros((), jnp.uint32)
    for dim in range(1, bits.ndim):  # of an entry within its layer
        position = position * jnp.uint32(bits.shape[dim]) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim)
    axes = tuple(range(1, bits.ndim))
    mixed = [_mix(bits ^ _mix(position + jnp.uint32(seed))) for seed in _SEEDS]
    return jnp.stack([jnp.sum(m, axis=axes, dtype=jnp.uint32) for m in mixed], axis=-1)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
