"""Greedy continuation of a batch of prompts by the 1.2B model in bfloat16: jaxpt, and transformers on the same shape.

transformers runs in a process of its own, as it allocates beside JAX; both draw random parameters, which cost the same.
"""

import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.made_prompts import lengths, prompts
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import Sizes
from jaxpt.generation.generate import generate
from jaxpt.models.compute import Compute
from jaxpt.models.init import init_params


def measure(sizes: Sizes, rows: Rows) -> None:
    """jaxpt first; then transformers, once this process has let go of the memory that it needs."""
    rows.measure("generate jaxpt", 30, lambda: ours(sizes))
    tiny = ["--tiny"] if sizes.sequence < 1024 else []
    out = [f"--out={rows.out}"] if rows.out else []
    command = [sys.executable, "-m", "benchmarks.gpu", "generate_transformers", f"--seconds={rows.left():.0f}"]
    subprocess.run([*command, *tiny, *out], timeout=max(5.0, rows.left() + 5))


def ours(sizes: Sizes) -> dict[str, Any]:
    """The second of two calls, so that neither compiles."""
    c, (batch, _, new) = sizes.model, lengths(sizes)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), init_params(c, 0))
    compute = Compute(dtype="bfloat16")
    begun = time.perf_counter()
    first = generate(c, params, prompts(sizes), new, compute=compute)
    cold = time.perf_counter() - begun
    begun = time.perf_counter()
    again = generate(c, params, prompts(sizes), new, compute=compute)
    seconds = time.perf_counter() - begun
    assert first == again, "greedy continuation differs from itself"
    return {"tokens_per_s": batch * new / seconds, "ms_per_token": seconds / new * 1e3, "first_call_s": cold}
