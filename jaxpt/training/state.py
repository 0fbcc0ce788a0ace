"""What a step changes: parameters, optimizer state, the objective's extra things; laid out by the axis table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Never, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params, Tree
from jaxpt.models.specs import Specs, flatten, map_specs, param_specs, unflatten
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.sharding import RULES, make_mesh, param_shardings
from jaxpt.training.config import ShardingConfig

X = TypeVar("X")  # an array, its shape and dtype, or where it lies
S = TypeVar("S")  # a tree of ShapeDtypeStruct
NO_EXTRA: Mapping[str, Never] = {}


class State(NamedTuple, Generic[X]):
    """All that a step changes and a checkpoint holds.

    `opt_state` is `{state name: tree by parameter path, or a scalar}`. `extra` is `{}`, or what the objective trains
    besides the model: `{"values": tree, "opt_state": {group: {state name: tree or scalar}}}`. `mean` is `{}`, or a mean
    of the parameters in their form; `guard` what the guard and the clipping of the run remember, small.
    """

    params: Tree[X]
    opt_state: Tree[X]
    extra: Tree[X] = NO_EXTRA
    mean: Tree[X] = NO_EXTRA
    guard: Tree[X] = NO_EXTRA

    def to_items(self) -> dict[str, Tree[X]]:
        """Returns the items of a checkpoint by name, those that there are; `State(**items)` is the state again."""
        items: dict[str, Tree[X]] = {"params": self.params, "opt_state": self.opt_state}
        more = {"extra": unflatten(flatten(self.extra)), "mean": self.mean, "guard": self.guard}  # without empty groups
        return items | {name: tree for name, tree in more.items() if tree}


@dataclass(frozen=True)
class Layout:
    """The mesh and where everything lies on it; `rules` say which axis name is split over which mesh axis."""

    mesh: Mesh
    params: Tree[NamedSharding]
    rows: int  # devices that the rows of a batch are split over
    rules: Mapping[str, str] = field(default_factory=lambda: RULES)

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of(self, specs: Specs) -> Tree[NamedSharding]:
        """Shardings of another axis table; what the mesh does not divide stays whole."""
        return param_shardings(specs, self.mesh, self.rules, tuple(flatten(specs)))


def make_layout(model: ModelConfig, sharding: ShardingConfig, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Builds the mesh and the parameters' shardings.

    Raises:
        JaxptError: a mesh that does not fit the devices, or an axis that its mesh axis does not divide.
    """
    mesh = make_mesh(sharding.mesh, devices)
    rules = {**RULES, **(sharding.rules or {})}
    params = param_shardings(param_specs(model), mesh, rules, sharding.allow_replicated)
    return Layout(mesh, params, mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape["expert"], rules)


def state_shardings(layout: Layout, optimizer: BuiltOptimizer) -> State[NamedSharding]:
    """Shardings of parameters and optimizer state, without extra things."""
    return State(layout.params, optimizer.state_shardings(layout.params))


def new_state(layout: Layout, optimizer: BuiltOptimizer, params: Params) -> State[Array]:
    """The first state of a run: the optimizer's is made in place on the devices that will hold it."""
    shardings = state_shardings(layout, optimizer)
    return State(params, jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params))


def abstract_state(model: ModelConfig, optimizer: BuiltOptimizer, layout: Layout) -> State[jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the state without its values: what a restore or a compile needs."""
    params = abstract_params(model)
    state = State(params, jax.eval_shape(optimizer.init, params))
    return with_shardings(state, state_shardings(layout, optimizer))


def with_shardings(shapes: S, shardings: object) -> S:
    """Returns the tree of `ShapeDtypeStruct` with these shardings."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def abstract_params(model: ModelConfig) -> Tree[jax.ShapeDtypeStruct]:
    """Shapes of the float32 master parameters."""
    return map_specs(lambda path, spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), param_specs(model))
