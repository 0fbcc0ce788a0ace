"""A digest of every (leaf, layer) that does not depend on the mesh: storage that flips a bit is noticed.

The same pass over memory says which layers hold NaN or an infinity.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxpt.models.params import Params
from jaxpt.models.specs import flatten

_SEEDS = (0x9E3779B9, 0x7F4A7C15)  # two independent 32-bit sums


@dataclass(frozen=True)
class Scan:
    """What one pass over a tree of arrays says about each (leaf, layer)."""

    digests: dict[str, list[str]]  # path -> 16 hex digits per layer, one entry for a leaf that is not stacked
    not_finite: list[str]  # "blocks/dense/q, layer 1" for each layer that holds NaN or an infinity


def scan(params: Params) -> Scan:
    """Returns digests and whether all values are finite, computed in one pass.

    A digest is sums modulo 2^32 of a bijective mix of each entry's bits and position (the finaliser of MurmurHash3):
    sums of integers are the same in every order, so shards add up to the same digest on any mesh, and a change of one
    entry always changes it.

    Args:
        params: nested dict of arrays, on one device, on a mesh or on the host; leaves under `blocks` are stacked along
            their first dimension.
    """
    flat = {path: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for path, leaf in flatten(params).items()}
    spread = [leaf for leaf in flat.values() if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable]
    if spread:  # several hosts: each needs all the sums
        everywhere = NamedSharding(_mesh_of(spread[0]), PartitionSpec())
        sums = jax.device_get(jax.jit(_sums, out_shardings=everywhere)(flat))
    else:
        sums = jax.device_get(_sums(flat))
    digests = {path: [hex_digest(row) for row in sums[path]] for path in flat}
    bad = [f"{path}, layer {i}" if _stacked(path) else path for path in flat for i in np.flatnonzero(sums[path][:, 2])]
    return Scan(digests, bad)


def _mesh_of(leaf: jax.Array) -> Mesh | AbstractMesh:
    assert isinstance(leaf.sharding, NamedSharding)  # what all parameters over several hosts have
    return leaf.sharding.mesh


def digest(params: Params) -> dict[str, list[str]]:
    """Returns the digests of `scan`: 16 hex digits per layer of each leaf."""
    return scan(params).digests


PIECE = 1 << 22  # entries of a host array that are digested at a time
EXPONENT = {4: 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}  # all ones: NaN or an infinity


def all_finite(value: np.ndarray) -> bool:
    """Whether a host array of floats (float32, bfloat16, float16) holds neither NaN nor an infinity."""
    flat = value.reshape(-1).view(f"u{value.dtype.itemsize}")
    mask = flat.dtype.type(EXPONENT[4 if value.dtype.itemsize == 4 else value.dtype.name])
    pieces = (flat[start : start + PIECE] for start in range(0, flat.size, PIECE))
    return not any(((piece & mask) == mask).any() for piece in pieces)


def slice_digest(value: np.ndarray) -> str:
    """Returns the digest of one layer's slice (or of a leaf without layers) on the host, as `digest` defines it."""
    return hex_digest(slice_sums(value))


def slice_sums(value: np.ndarray, first: int = 0) -> np.ndarray:
    """Returns the two sums `[2]` uint32 of entries from position `first` of a layer's slice on.

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
    return {path: _leaf(leaf, _stacked(path)) for path, leaf in flat.items()}


def _stacked(path: str) -> bool:
    return path.startswith("blocks/")


def _leaf(leaf: jax.Array, stacked: bool) -> jax.Array:
    """`[layers, 3]` uint32: the two sums, and whether an entry is NaN or infinite."""
    bits = jax.lax.bitcast_convert_type(leaf, {4: jnp.uint32, 2: jnp.uint16, 1: jnp.uint8}[leaf.dtype.itemsize])
    bits, bad = bits.astype(jnp.uint32), (~jnp.isfinite(leaf)).astype(jnp.uint32)
    if not stacked:
        bits, bad = bits[None], bad[None]
    position = jnp.zeros((), jnp.uint32)
    for dim in range(1, bits.ndim):  # of an entry within its layer
        position = position * jnp.uint32(bits.shape[dim]) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim)
    axes = tuple(range(1, bits.ndim))
    mixed = [_mix(bits ^ _mix(position + jnp.uint32(seed))) for seed in _SEEDS]
    zeros = (jnp.uint32(0),) * 3
    # one reduction of three operands reads the memory once; three of one operand read it three times on a CPU
    sums = jax.lax.reduce((*mixed, bad), zeros, lambda a, b: (a[0] + b[0], a[1] + b[1], a[2] | b[2]), axes)
    return jnp.stack(sums, axis=-1)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
