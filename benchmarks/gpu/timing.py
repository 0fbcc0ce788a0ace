"""Seconds of a compiled function on the device: groups of calls that wait once, the median of the groups."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.gpu.sizes import Sizes


def seconds_per_call(call: Callable[[], Any], sizes: Sizes) -> tuple[float, float]:
    """Returns the median over groups of the seconds of one call, and the spread (largest - smallest) over it.

    Args:
        call: enqueues the work and returns what to wait for.
        sizes: how many groups, and about how long each.
    """
    jax.block_until_ready(call())
    begun = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, int(sizes.seconds / max(time.perf_counter() - begun, 1e-6)))
    groups = []
    for _ in range(sizes.repeats):
        begun = time.perf_counter()
        for _ in range(count):
            last = call()
        jax.block_until_ready(last)
        groups.append((time.perf_counter() - begun) / count)
    middle = statistics.median(groups)
    return middle, (max(groups) - min(groups)) / middle


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """Returns a call of the jitted function on these arguments, and the seconds that its compilation took."""
    begun = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: program(*arguments), time.perf_counter() - begun
