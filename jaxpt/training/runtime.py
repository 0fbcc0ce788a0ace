"""What is set before JAX starts, or once for a process: XLA's flags and where compiled programs are kept."""

import os
from pathlib import Path

import jax

from jaxpt.sharding.xla_flags import set_flags
from jaxpt.training.config import RunConfig

OFF = "off"


def prepare_process(config: RunConfig) -> list[str]:
    """Sets what `config.runtime` asks for; returns lines that say what is in force.

    It starts no backend, and is to be called before one starts: XLA reads its flags then.

    Raises:
        JaxptError: a name in `xla_flags` that is no flag's.
    """
    flags = set_flags(config.runtime.xla_flags, config.runtime.deterministic)
    folder = compile_cache(config)
    jax.config.update("jax_compilation_cache_dir", None if folder is None else str(folder))
    where = f"compiled programs are kept in {folder}" if folder else "compiled programs are not kept"
    return [*([flags] if flags else []), where]


def compile_cache(config: RunConfig) -> Path | None:
    """Returns the folder of compiled programs, None where none are to be kept."""
    asked = config.runtime.compile_cache
    if asked == OFF:
        return None
    named = asked or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return Path(named) if named else Path(config.cache or Path.home() / ".cache" / "jaxpt") / "compiled"
