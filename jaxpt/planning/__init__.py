"""Compiling for a pod that is not there: memory and collectives of the real train step."""

from jaxpt.planning.compile import CompiledStep, compile_step, topology_devices

__all__ = ["CompiledStep", "compile_step", "topology_devices"]
