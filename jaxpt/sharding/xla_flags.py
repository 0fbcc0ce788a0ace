"""What is asked of XLA on each kind of device, as data: set before a backend starts, shown, and overridable by name."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxpt.errors import JaxptError


class Flag(NamedTuple):
    """A flag of XLA's, its value and what it is for."""

    name: str
    value: str
    reason: str


# Named here is what differs from XLA's defaults, or what a run's speed hangs on and a newer default could change.
FLAGS: dict[str, tuple[Flag, ...]] = {
    "gpu": (
        Flag("xla_gpu_enable_latency_hiding_scheduler", "true", "collectives run beside what does not need them"),
        Flag("xla_gpu_enable_command_buffer", "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN", "kernels launched as graphs"),
        Flag("xla_gpu_enable_triton_gemm", "true", "H100, 1.4B model: the step takes a tenth longer without"),
        Flag("xla_gpu_autotune_level", "4", "products are tried out and compared; results lie in the compile cache"),
    ),
    "tpu": (),  # libtpu reads LIBTPU_INIT_ARGS; no other than its defaults was measured to be faster
    "cpu": (),
}
DETERMINISTIC: dict[str, tuple[Flag, ...]] = {
    "gpu": (Flag("xla_gpu_deterministic_ops", "true", "the same bits in every run; costs speed"),),
    "tpu": (),  # as they are
    "cpu": (),
}


def expected_backend(environment: Mapping[str, str] = os.environ) -> str:
    """Returns "gpu", "tpu" or "cpu": what JAX will take, by what is installed and there; asking JAX would start it."""
    asked = environment.get("JAX_PLATFORMS", "").split(",")[0]
    if asked:
        return {"cuda": "gpu", "rocm": "gpu"}.get(asked, asked)
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin")
    driver = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg"))
    if driver and any(importlib.util.find_spec(plugin) for plugin in plugins):
        return "gpu"
    return "tpu" if importlib.util.find_spec("libtpu") and Path("/dev/accel0").exists() else "cpu"


def chosen_flags(
    backend: str, given: Mapping[str, str] | None = None, deterministic: bool = False, environment: str = ""
) -> tuple[str, ...]:
    """Returns the flags in force, as `--name=value`: the table's, then `given`, then those of the environment.

    Args:
        backend: "gpu", "tpu" or "cpu".
        given: of the config, by name without dashes.
        deterministic: adds those of `DETERMINISTIC`.
        environment: the value of `XLA_FLAGS`, which overrides by name.

    Raises:
        JaxptError: a name in `given` that is no flag's.
    """
    flags = {f.name: f.value for f in FLAGS.get(backend, ())}
    flags |= {f.name: f.value for f in DETERMINISTIC.get(backend, ())} if deterministic else {}
    for name, value in (given or {}).items():
        if not name.startswith("xla_") or not name.replace("_", "").isalnum():
            raise JaxptError(f"runtime.xla_flags.{name}: flags of XLA begin with xla_, without dashes before them")
        flags[name] = str(value)
    told = {part.lstrip("-").split("=", 1)[0]: part for part in environment.split()}
    kept = [f"--{name}={value}" for name, value in flags.items() if name not in told]
    return (*kept, *told.values())


def set_flags(given: Mapping[str, str] | None = None, deterministic: bool = False) -> str:
    """Sets `XLA_FLAGS` for this process and those that it starts; returns the line that says so, "" without a flag.

    No backend may have started: it has read the variable by then.
    """
    backend = expected_backend()
    flags = chosen_flags(backend, given, deterministic, os.environ.get("XLA_FLAGS", ""))
    if not flags:
        return ""
    os.environ["XLA_FLAGS"] = " ".join(flags)
    return f"XLA on {backend}: {' '.join(flags)}"
