"""Types of what passes between the rooms: parameters as nested dicts of arrays, and their shardings."""

from collections.abc import Mapping
from types import EllipsisType
from typing import TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

T = TypeVar("T")
Tree = Mapping[str, T | "Tree[T]"]  # nested dict of one thing for each parameter, in the form of the axis table
Array = jax.Array | np.ndarray
Params = Tree[Array]  # blocks are stacked along a leading `layers` axis
Shardings = Tree[Sharding]
IndexPart = slice | int | EllipsisType
ArrayIndex = IndexPart | tuple[IndexPart, ...]  # what cuts a part out of an array


def leaf(params: Params, *path: str) -> jax.Array:
    """Returns the array at a path: `leaf(params, "embed", "table")`."""
    node: Array | Params = params
    for name in path:
        assert isinstance(node, Mapping), f"{name} lies in an array"
        node = node[name]
    assert not isinstance(node, Mapping), f"{'/'.join(path)} is no array"
    return jnp.asarray(node)


@overload
def branch(tree: Params, name: str) -> Params: ...


@overload
def branch(tree: Tree[T], name: str) -> Tree[T]: ...


def branch(tree: Tree[T], name: str) -> Tree[T]:
    """Returns the nested dict under a key: `branch(params, "blocks")`."""
    node = tree[name]
    assert isinstance(node, Mapping), f"{name} is an array"
    return node
