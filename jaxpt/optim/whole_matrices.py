"""A rule for whole matrices over sharded stacks: each device is given whole matrices, no device gathers a stack.

A stack `[layers, rows, columns]` lies split along rows and columns. Products of a matrix with itself need it whole;
left to the compiler, every device gathers all layers. Here an all-to-all turns "a part of every matrix" into "every
part of some matrices", the rule is applied, and a second all-to-all puts the results back. A device then holds
`ceil(matrices / devices)` whole matrices, less than one more than what it holds anyway; where the devices do not divide
the matrices, zeros fill up the last ones. Replicas over the mesh axes that split nothing of a matrix do the same work.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.sharding import PartitionSpec

from jaxpt.models.specs import ParamSpec
from jaxpt.optim.matrices import MatrixDims
from jaxpt.sharding.rules import partition_specs

MatrixRule = Callable[[jax.Array], jax.Array]
STACK_AXES = ("layers", "experts")  # what the pieces of a parameter count, outermost first


def on_whole_matrices(rule: MatrixRule, spec: ParamSpec, dims: MatrixDims) -> MatrixRule:
    """Returns `rule` for one piece of a parameter, which under `jax.vmap` takes whole stacks of pieces.

    The mesh in force (`jax.set_mesh`) says how pieces lie, by the rules of `jaxpt.sharding`; stacks that lie otherwise
    are moved there first. Without a mesh the rule is applied where the stack is.

    Args:
        rule: maps `[N, *reduction, *output]` to the same shape, each of the N matrices by itself; zeros to zeros.
        spec: of the piece.
        dims: the piece's dimensions as those of matrices.
    """

    def over(stack: tuple[str, ...]) -> MatrixRule:
        @custom_vmap
        def apply(x: jax.Array) -> jax.Array:
            return _apply(rule, x, stack, spec, dims)

        @apply.def_vmap
        def of_stack(size: int, batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
            outer = STACK_AXES[:1] if not stack else STACK_AXES
            return over(outer)(x if batched[0] else jnp.broadcast_to(x, (size, *x.shape))), True

        return apply

    return over(())


def _apply(rule: MatrixRule, x: jax.Array, stack: tuple[str, ...], spec: ParamSpec, dims: MatrixDims) -> jax.Array:
    """The rule on `x` `[*stack, *piece]`."""
    order = (*range(len(stack)), *(len(stack) + d for d in dims.order))
    batch = len(stack) + len(dims.batch)
    axes = tuple((*stack, *spec.axes)[d] for d in order)
    x = x.transpose(order)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        y = rule(x.reshape(-1, *x.shape[batch:])).reshape(x.shape)
    else:
        where = partition_specs({"x": ParamSpec(x.shape, axes)}, mesh, allow_replicated=("x",))["x"]
        assert isinstance(where, PartitionSpec)
        parts = (*where, *(None for _ in axes[len(where) :]))
        splits = [(d - batch + 1, parts[d], mesh.shape[parts[d]]) for d in range(batch, x.ndim) if parts[d]]
        owned = jax.shard_map(
            lambda block: _owned(rule, block, batch, splits), in_specs=where, out_specs=where, check_vma=False
        )
        y = owned(x)
    back = sorted(range(len(order)), key=lambda d: order[d])
    return y.transpose(back)


def _owned(rule: MatrixRule, block: jax.Array, batch: int, splits: list[tuple[int, str, int]]) -> jax.Array:
    """One device's part: its parts of all matrices → whole matrices → the rule → its parts of all matrices.

    Args:
        rule: as in `on_whole_matrices`.
        block: `[*batch, *matrix]`, of which some dimensions are split.
        batch: leading dimensions that count matrices.
        splits: of `[N, *matrix]`: a dimension, the mesh axis it is split over, and in how many parts.
    """
    x = block.reshape(-1, *block.shape[batch:])
    count = len(x)
    x = jnp.pad(x, [(0, -count % math.prod(parts for _, _, parts in splits)), *[(0, 0)] * (x.ndim - 1)])
    for dim, axis, _ in splits:
        x = jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=dim, tiled=True)
    x = rule(x)
    for dim, axis, _ in reversed(splits):
        x = jax.lax.all_to_all(x, axis, split_axis=dim, concat_axis=0, tiled=True)
    return x[:count].reshape(block.shape)
