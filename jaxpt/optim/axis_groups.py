"""Parameters in groups by the names of their axes, and the norms of groups."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxpt.models.params import Params
from jaxpt.models.specs import Specs, flatten

AxisGroups = Mapping[str, Sequence[str]]  # "embed.heads.head_dim" -> paths of the parameters that have these axes


def axis_groups(specs: Specs) -> dict[str, list[str]]:
    """Returns the paths of each group: parameters with the same axes in the same order, stacked `layers` left out."""
    out: dict[str, list[str]] = {}
    for path, spec in flatten(specs).items():
        if not spec.state:
            out.setdefault(".".join(a for a in spec.axes if a != "layers") or "scalar", []).append(path)
    return out


def squares(tree: Params) -> dict[str, jax.Array]:
    """Returns the sum of squares of each leaf by path, float32 scalars."""
    return {path: jnp.sum(jnp.square(x.astype(jnp.float32))) for path, x in flatten(tree).items()}


def group_norms(tree: Params, groups: AxisGroups, factors: Mapping[str, float] | None = None) -> jax.Array:
    """Returns the Euclidean norm of each group, float32 `[groups]` in their order.

    Args:
        tree: parameters, or what has their form.
        groups: as `axis_groups` returns them.
        factors: what each leaf is multiplied by first, by path; None: 1.
    """
    of = squares(tree)
    parts = [
        sum(((factors or {}).get(p, 1.0) ** 2 * of[p] for p in paths), jnp.float32(0)) for paths in groups.values()
    ]
    return jnp.sqrt(jnp.stack(parts))
