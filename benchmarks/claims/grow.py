"""Does a grown model learn faster than a random one of its size, and which growth is best? Equal tokens.

python -m benchmarks.claims.grow --text='english/*.jsonl.gz' --folder=runs/grow
"""

from typing import Any

from benchmarks.claims.upcycle import Start, arguments, run
from jaxpt.models import Compute, ModelConfig, init_params
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import pad
from jaxpt.reshape.grow import aki, fpi, interpolate, llama_pro, stack

WIDTH = {
    "random": lambda c, seed: pad(c, "mlp", 2 * c.mlp, seed=seed),
    "pad": lambda c, seed: pad(c, "mlp", 2 * c.mlp, seed=seed),
    "fpi": lambda c, seed: fpi(c, "mlp", 2 * c.mlp, seed),
    "fpi-noise": lambda c, seed: fpi(c, "mlp", 2 * c.mlp, seed, noise=0.01),
    "aki": lambda c, seed: aki(c, 2 * c.mlp, seed),
}
DEPTH = {
    "random-deep": lambda c, seed: stack(c, 2 * len(c.layers)),
    "stack": lambda c, seed: stack(c, 2 * len(c.layers)),
    "interpolate": lambda c, seed: interpolate(c, 2 * len(c.layers)),
    "llama-pro": lambda c, seed: llama_pro(c, len(c.layers)),
}


def start(config: ModelConfig, params: Any, method: str, seed: int) -> Start:
    """Where a method's run begins; "parent" is the model trained on without growth."""
    if method == "parent":
        return config, params, Compute(), ()
    plan = {**WIDTH, **DEPTH}[method](config, seed)
    made = init_params(plan.target, seed) if method.startswith("random") else apply(plan, params)
    return plan.target, made, Compute(), tuple(plan.entry.get("freeze", ()))


if __name__ == "__main__":
    METHODS = ",".join(["parent", *WIDTH, *DEPTH])
    raise SystemExit(run(arguments(METHODS, __doc__.split("\n")[0]), start, "random"))
