"""What a step changes: parameters and optimizer state, laid out on the mesh by the axis table."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpt.models.config import ModelConfig
from jaxpt.models.specs import map_specs, param_specs
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.sharding import RULES, make_mesh, param_shardings
from jaxpt.training.config import ShardingConfig

State = dict[str, Any]  # {"params": tree, "opt_state": {"count": int32, "mu": tree, …}}


@dataclass(frozen=True)
class Layout:
    """The mesh and where everything lies on it."""

    mesh: Mesh
    params: Any  # tree of NamedSharding
    rows: int  # devices that the rows of a batch are split over

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())


def make_layout(model: ModelConfig, sharding: ShardingConfig, devices: Any = None) -> Layout:
    """Builds the mesh and the parameters' shardings.

    Raises:
        JaxptError: a mesh that does not fit the devices, or an axis that its mesh axis does not divide.
    """
    mesh = make_mesh(sharding.mesh, devices)
    rules = {**RULES, **(sharding.rules or {})}
    params = param_shardings(param_specs(model), mesh, rules, sharding.allow_replicated)
    return Layout(mesh, params, mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape["expert"])


def state_shardings(layout: Layout, optimizer: BuiltOptimizer, params: Any) -> State:
    """Shardings of the whole state: the optimizer's lies by the axes that it shares with the parameters."""
    return {"params": layout.params, "opt_state": optimizer.state_shardings(layout.params)}


def new_opt_state(optimizer: BuiltOptimizer, params: Any, shardings: State) -> Any:
    """The optimizer's first state, made in place on the devices that will hold it."""
    return jax.jit(optimizer.init, out_shardings=shardings["opt_state"])(params)


def abstract_state(model: ModelConfig, optimizer: BuiltOptimizer, layout: Layout) -> State:
    """Shapes, dtypes and shardings of the state without its values: what a restore or a compile needs."""
    params = abstract_params(model)
    state = {"params": params, "opt_state": jax.eval_shape(optimizer.init, params)}
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        state_shardings(layout, optimizer, params),
    )


def abstract_params(model: ModelConfig) -> Any:
    """Shapes of the float32 master parameters."""
    return map_specs(lambda path, spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), param_specs(model))
