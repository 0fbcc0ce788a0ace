"""The one mesh: every axis always there, length 1 where unused."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxpt.errors import JaxptError, nearest

# From the slowest network to the fastest: neighbours on `tensor` exchange the most.
MESH_AXES = ("data", "stage", "fsdp", "expert", "context", "tensor")
UNBUILT = {"stage": "pipeline parallelism", "context": "context parallelism"}  # axes that nothing is split over yet


def check_axes(lengths: Mapping[str, int], where: str) -> None:
    """Checks the names and lengths of mesh axes; -1 stands for what is left of the devices.

    Args:
        lengths: by axis.
        where: how the axis is named in messages: "sharding.mesh." or "--mesh=context=2: ".

    Raises:
        JaxptError: an unknown axis; a length below 1; a length above 1 of an axis that nothing is built for.
    """
    for name, length in lengths.items():
        if name not in MESH_AXES:
            raise JaxptError(
                f"{where}{name} is not a mesh axis{nearest(name, MESH_AXES)}; they are {', '.join(MESH_AXES)}"
            )
        if length != -1 and length < 1:
            raise JaxptError(f"{where}{name} is {length}, it must be at least 1 (or -1: what is left)")
        if name in UNBUILT and length != 1:
            raise JaxptError(
                f"{where}{name} is {length}: {UNBUILT[name]} is not built yet; leave it at 1 and split over "
                f"{', '.join(a for a in MESH_AXES if a not in UNBUILT)}"
            )


def parse_axes(text: str, flag: str) -> dict[str, int]:
    """Returns the lengths in "fsdp=8,tensor=4", by axis.

    Args:
        text: as a flag has it.
        flag: its name, for messages.

    Raises:
        JaxptError: another form; as `check_axes`.
    """
    try:
        lengths = {name: int(n) for name, n in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise JaxptError(f"{flag}={text} is not of the form fsdp=8,tensor=4") from None
    check_axes(lengths, f"{flag}={text}: ")
    return lengths


def make_mesh(shape: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over all of `MESH_AXES`.

    Args:
        shape: length of some axes; the others are 1. One length may be -1: what is left of the devices. Default: all
            devices on `fsdp`.
        devices: default all devices of all hosts.

    Raises:
        JaxptError: as `check_axes`; a product that is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = dict(shape or {"fsdp": -1})
    check_axes(shape, "sharding.mesh.")
    free = [n for n, length in shape.items() if length == -1]
    fixed = math.prod(length for length in shape.values() if length != -1)
    if len(free) > 1:
        raise JaxptError(f"sharding.mesh: only one axis may be -1, got {' and '.join(free)}")
    if free:
        shape[free[0]] = max(1, len(devices) // fixed)
    lengths = [shape.get(n, 1) for n in MESH_AXES]
    if math.prod(lengths) != len(devices):
        asked = " x ".join(f"{n}={shape[n]}" for n in shape)
        raise JaxptError(f"sharding.mesh {asked} needs {math.prod(lengths)} devices, there are {len(devices)}")
    grid = mesh_utils.create_device_mesh(lengths, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
