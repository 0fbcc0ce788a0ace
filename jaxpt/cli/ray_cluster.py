"""Connecting to a Ray cluster: the one place that starts Ray, with its telemetry off."""

import os
from collections.abc import Mapping
from types import ModuleType

from jaxpt.errors import JaxptError

RAY_TELEMETRY_OFF = {"RAY_USAGE_STATS_ENABLED": "0"}


def connect(address: str | None, environment: Mapping[str, str], way_out: str) -> ModuleType:
    """Connects this process to a cluster, once, and returns the module `ray`.

    Args:
        address: of the cluster; None finds the one of this machine or starts one.
        environment: variables that its workers have.
        way_out: what to do where Ray is not installed.

    Raises:
        JaxptError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.update(RAY_TELEMETRY_OFF)
    try:
        import ray
    except ImportError as error:
        raise JaxptError(f"Ray is not installed ({error.name}); {way_out}") from error
    if not ray.is_initialized():
        variables = {**RAY_TELEMETRY_OFF, **environment}
        try:
            ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise JaxptError(
                f"no Ray cluster at {address or 'this machine'} ({' '.join(str(error).split())[:200]})"
            ) from error
    return ray
