"""One step of the fastest form under the profiler: milliseconds per kind of kernel, the longest kernels, the gaps."""

from typing import Any

import jax

from benchmarks.gpu import trace
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections import step
from benchmarks.gpu.sizes import Sizes


def measure(sizes: Sizes, rows: Rows) -> None:
    """Profiles the first of the tries of the train step, and the same with packed rows."""
    model, tries = step.Model(sizes.model), step.tries(sizes)
    for a_try in (tries[0], next(t for t in tries if t.packed)):
        profile(model, sizes, a_try, rows)


def profile(model: step.Model, sizes: Sizes, a_try: step.Try, rows: Rows) -> None:
    """Adds the rows of one form of the step."""
    one, _ = step.prepare(model, sizes, a_try)
    with jax.set_mesh(model.layout.mesh):
        jax.block_until_ready(one())
        found = trace.summary(trace.profiled(one))
    if not found["kinds"]:
        rows.add(f"profile {a_try.name}", not_run="this backend's profile has no device")
        return
    rows.add(f"profile {a_try.name}", span_ms=found["span_ms"], gaps_ms=found["gaps_ms"])
    for what in ("kinds", "kernels"):
        table: dict[str, Any] = found[what]
        for name, (ms, calls) in table.items():
            rows.add(f"profile {what[:-1]} {name[:60]}", ms=ms, share=ms / found["span_ms"], calls=calls)
