"""Mesh, rules from axis names to mesh axes, hosts."""

from jaxpt.sharding.activations import constrain
from jaxpt.sharding.hosts import check_join, join, of_first, on_first_process, text_of_first
from jaxpt.sharding.mesh import MESH_AXES, check_axes, make_mesh
from jaxpt.sharding.rules import RULES, batch_sharding, param_shardings, partition_specs

__all__ = [
    "MESH_AXES",
    "RULES",
    "batch_sharding",
    "check_axes",
    "check_join",
    "constrain",
    "join",
    "make_mesh",
    "of_first",
    "on_first_process",
    "param_shardings",
    "partition_specs",
    "text_of_first",
]
