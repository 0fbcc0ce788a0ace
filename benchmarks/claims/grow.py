"""Does a grown model learn faster than a random one of its size, and which growth is best? Equal tokens.

A small parent is trained on real text (once, kept in --folder); each method makes it wider (FFN twice as wide, or every
axis larger) or twice as deep, and trains on the same batches in the same order. "parent" is trained on ungrown.

python -m benchmarks.claims.grow --text='english/*.jsonl.gz' --folder=runs/grow
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.claims.from_parent import Start, arguments, run
from jaxpt.models import Compute, ModelConfig, init_params
from jaxpt.reshape.apply import apply
from jaxpt.reshape.grow_target import deepen, widen
from jaxpt.reshape.rewrite import Rewrite

Grow = Callable[[ModelConfig, int], list[Rewrite]]


def _ffn(how: str, noise: float = 0.0) -> Grow:
    return lambda c, seed: widen(c, {"mlp": 2 * c.mlp}, how, noise=noise, seed=seed)


def _all(how: str, noise: float = 0.0) -> Grow:
    def grow(c: ModelConfig, seed: int) -> list[Rewrite]:
        target = {"embed": c.embed * 3 // 2, "mlp": c.mlp * 3 // 2, "kv_heads": 2 * c.kv_heads}
        rewrites = widen(c, {k: target[k] for k in ("embed", "mlp")}, how, noise=noise, seed=seed)
        return rewrites + widen(rewrites[-1].target, {"kv_heads": target["kv_heads"]}, how, seed=seed)

    return grow


def _deep(how: str) -> Grow:
    return lambda c, seed: [deepen(c, 2 * len(c.layers), how)]


METHODS: dict[str, Grow] = {
    "random": _ffn("pad"),
    "pad": _ffn("pad"),
    "fpi": _ffn("fpi"),
    "fpi-noise": _ffn("fpi", 0.01),
    "aki": _ffn("aki"),
    "random-wide": _all("pad"),
    "pad-wide": _all("pad"),
    "fpi-wide": _all("fpi"),
    "random-deep": _deep("stack"),
    "stack": _deep("stack"),
    "interpolate": _deep("interpolate"),
    "llama-pro": _deep("llama_pro"),
    "llama-pro-all": _deep("llama_pro"),  # identity blocks, but everything is trained
}


def start(config: ModelConfig, params: Any, method: str, seed: int) -> Start:
    """Where a method's run begins; "parent" is the model trained on without growth."""
    if method == "parent":
        return Start(config, params, Compute(), (), True)
    rewrites = METHODS[method](config, seed)
    if method.startswith("random"):
        return Start(
            rewrites[-1].target, jax.tree.map(np.asarray, init_params(rewrites[-1].target, seed)), Compute(), (), False
        )
    for rewrite in rewrites:
        params = apply(rewrite, params)
    freeze = tuple(rewrites[-1].entry["freeze"]) if method == "llama-pro" else ()
    exact = all(bool(rewrite.entry["exact"]) for rewrite in rewrites)
    return Start(rewrites[-1].target, params, Compute(), freeze, exact)


if __name__ == "__main__":
    baselines = ["parent", *(m for m in METHODS if m.startswith("random"))]
    raise SystemExit(run(arguments(["parent", *METHODS], baselines, __doc__), start, "grow"))
