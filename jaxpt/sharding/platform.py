"""Which kind of device the code being traced will run on."""

import jax


def platform() -> str:
    """Returns "tpu", "gpu" or "cpu": of the mesh in force (also of an absent pod), else of this process."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    name = device.platform if device is not None and device.platform else jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def device_kind() -> str:
    """Returns the name that a device of the mesh in force gives itself, else of this process: "TPU v5 lite", …"""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return device.device_kind if device is not None else jax.devices()[0].device_kind
