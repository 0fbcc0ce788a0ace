"""Where activations lie: hints to the compiler, by the meaning of each dimension."""

import math

import jax
from jax.sharding import PartitionSpec

# meaning of an activation's dimension -> mesh axes it is split over
ACTIVATION_RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp", "expert"),
    "sequence": ("context",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "shared_mlp": ("tensor",),
    "vocab": ("tensor",),
    "experts": ("expert",),
}


def partition_spec(shape: tuple[int, ...], *names: str | None) -> PartitionSpec:
    """Returns how an activation of `shape` lies on the ambient mesh; a dimension its axes do not divide stays whole."""
    mesh = jax.sharding.get_abstract_mesh()
    parts: list[tuple[str, ...] | str | None] = []
    for length, name in zip(shape, names):
        axes = tuple(a for a in ACTIVATION_RULES.get(name or "", ()) if mesh.shape.get(a, 1) > 1)
        whole = not axes or length % math.prod(mesh.shape[a] for a in axes)
        parts.append(None if whole else axes[0] if len(axes) == 1 else axes)
    return PartitionSpec(*parts)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pins `x`'s layout on the mesh in force (`jax.set_mesh`), one name or None per dimension; a no-op without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape.values()) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(x.shape, *names))
