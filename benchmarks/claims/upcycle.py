"""Is an upcycled mixture better than its dense parent trained on? Equal tokens, loss curves, spikes, router dtypes.

A dense parent is trained on real text (once, kept in --folder); each method goes on from it on the same batches in the
same order. "random" is a mixture of the same shape at random; "…-bfloat16-router" computes router logits and softmax
in bfloat16.

python -m benchmarks.claims.upcycle --text='english/*.jsonl.gz' --folder=runs/upcycle
python -m benchmarks.claims.grow --text='english/*.jsonl.gz' --folder=runs/grow
"""

import dataclasses
from typing import Any

from benchmarks.claims.from_parent import Start, arguments, run
from jaxpt.models import Compute, ModelConfig, init_params
from jaxpt.reshape.apply import apply
from jaxpt.reshape.upcycle import Upcycling, upcycle

NAIVE = Upcycling(8, 2, permute=False, keep=1.0)
OPTIONS = {
    "naive": NAIVE,
    "fine": Upcycling(16, 4, granularity=2, keep=1.0),  # as many active neurons as naive, permuted, cut in two
    **{f"redrawn-{k}": dataclasses.replace(NAIVE, permute=True, keep=k) for k in (0.5, 0.7, 0.9, 0.995)},
    "naive-bfloat16-router": NAIVE,
    "random": NAIVE,
    "random-bfloat16-router": NAIVE,
}


def start(config: ModelConfig, params: Any, method: str, seed: int) -> Start:
    """Where a method's run begins; "dense" is the parent trained on."""
    if method == "dense":
        return Start(config, params, Compute(), (), True)
    rewrite = upcycle(config, OPTIONS[method], seed=seed)
    random = method.startswith("random")
    made = init_params(rewrite.target, seed) if random else apply(rewrite, params)
    compute = Compute(router_dtype="bfloat16" if method.endswith("bfloat16-router") else "float32")
    return Start(rewrite.target, made, compute, (), not random and bool(rewrite.entry["exact"]))


if __name__ == "__main__":
    METHODS = ["dense", *OPTIONS]
    raise SystemExit(run(arguments(METHODS, ["dense", "random"], __doc__), start, "upcycle"))
