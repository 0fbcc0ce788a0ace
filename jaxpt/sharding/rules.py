"""Rules from a parameter's axis names to mesh axes, and the shardings that follow from them."""

from collections.abc import Collection, Mapping
from typing import Protocol

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxpt.errors import JaxptError


class NamedAxes(Protocol):
    """What an axis table says of one parameter: the length and the name of each dimension."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names."""


AxisTable = Mapping[str, "NamedAxes | AxisTable"]
PartitionSpecs = dict[str, "PartitionSpec | PartitionSpecs"]
NamedShardings = dict[str, "NamedSharding | NamedShardings"]

# axis name of a parameter -> mesh axis; an axis that is not listed is never split
RULES: dict[str, str] = {
    "layers": "stage",
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "experts": "expert",
    "expert_mlp": "tensor",
    "shared_mlp": "tensor",
}

# a batch's rows are split over all three: FSDP and expert parallelism are data parallelism with split parameters
BATCH = ("data", "fsdp", "expert")


def partition_specs(
    specs: AxisTable,
    mesh: Mesh | AbstractMesh,
    rules: Mapping[str, str] | None = None,
    allow_replicated: Collection[str] = (),
) -> PartitionSpecs:
    """Returns the `PartitionSpec` of every parameter, same structure as `specs`.

    Gains and biases (one dimension besides `layers`) are small and stay whole.

    Args:
        specs: the axis table, a nested dict of `ParamSpec`.
        mesh: its axes and their lengths.
        rules: axis name to mesh axis, default `RULES`.
        allow_replicated: paths ("blocks/dense/k") whose undividable dimensions may stay whole.

    Raises:
        JaxptError: a rule names no mesh axis; two dimensions of a leaf fall on one mesh axis; a mesh axis does not
            divide a dimension and the leaf is not in `allow_replicated`; `allow_replicated` names no leaf.
    """
    rules = RULES if rules is None else rules
    for axis, target in rules.items():
        if target not in mesh.shape:
            raise JaxptError(f"sharding.rules.{axis} is {target!r}, no axis of the mesh {tuple(mesh.shape)}")
    seen: set[str] = set()

    def walk(tree: AxisTable, prefix: str) -> PartitionSpecs:
        out: PartitionSpecs = {}
        for name, value in tree.items():
            path = f"{prefix}{name}"
            if isinstance(value, Mapping):
                out[name] = walk(value, f"{path}/")
            else:
                seen.add(path)
                out[name] = _one(path, value, mesh, rules, path in allow_replicated)
        return out

    result = walk(specs, "")
    for path in allow_replicated:
        if path not in seen:
            raise JaxptError(f"sharding.allow_replicated names {path!r}, which is not a parameter of this model")
    return result


def _one(
    path: str, spec: NamedAxes, mesh: Mesh | AbstractMesh, rules: Mapping[str, str], may_replicate: bool
) -> PartitionSpec:
    small = len(spec.shape) - ("layers" in spec.axes) < 2
    parts: list[str | None] = []
    for length, axis in zip(spec.shape, spec.axes):
        target = rules.get(axis)
        if target is None or mesh.shape[target] == 1 or (small and axis != "layers"):
            parts.append(None)
            continue
        if target in parts:
            raise JaxptError(f"{path}: sharding.rules put two of its axes {spec.axes} on the mesh axis {target!r}")
        if length % mesh.shape[target]:
            if not may_replicate:
                raise JaxptError(
                    f"{path}: its axis {axis!r} of length {length} is not divided by the mesh axis {target!r} of "
                    f"length {mesh.shape[target]}; change the mesh or list it in sharding.allow_replicated"
                )
            parts.append(None)
            continue
        parts.append(target)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def param_shardings(
    specs: AxisTable, mesh: Mesh, rules: Mapping[str, str] | None = None, allow_replicated: Collection[str] = ()
) -> NamedShardings:
    """Returns the `NamedSharding` of every parameter; arguments and errors as `partition_specs`."""
    parts = partition_specs(specs, mesh, rules, allow_replicated)
    return jax.tree.map(lambda p: NamedSharding(mesh, p), parts, is_leaf=lambda x: isinstance(x, PartitionSpec))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over `data`, `fsdp` and `expert`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH))
