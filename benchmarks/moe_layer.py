"""Time of the dropless mixture-of-experts layer against a dense feed-forward network of the same active FLOPs.

    python benchmarks/moe_layer.py [--embed 256] [--mlp 512] [--tokens 4096] [--experts 8] [--top 2] [--rounds 7]

Forward and backward, router included; the dense network is `top` times as wide as an expert. Rounds alternate; a ratio
is the median over rounds of the ratio within a round, in wall and in CPU seconds.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.cli.terminal import table
from jaxpt.models import Compute, MoeConfig
from jaxpt.models.experts import Network, mix
from jaxpt.models.routing import route

LIMIT = 1.6


def layers(args: argparse.Namespace) -> dict:
    """Name -> (compiled step, arguments)."""
    moe = MoeConfig(args.experts, args.top, args.mlp)
    compute = Compute(args.dtype)
    d, f, e, s = args.embed, args.mlp, args.experts, 256
    draw = lambda i, *shape: 0.05 * jax.random.normal(jax.random.key(i), shape)  # noqa: E731
    x = draw(0, args.tokens // s, s, d) * 20
    valid = jnp.ones(x.shape[:2], bool)
    dtype = compute.jnp_dtype

    def sparse(p, x, favour):
        experts, shares, _ = route(moe, p[0], favour, x, valid, jnp.float32)
        w = tuple(a.astype(dtype) for a in p[1:])
        return jnp.sum(jnp.square(mix(moe, x.astype(dtype), experts, shares, w, Network(jax.nn.silu, compute))))

    def dense(p, x):
        gate, up, down = (a.astype(dtype) for a in p)
        h = x.astype(dtype).reshape(-1, d)
        mm = lambda a, b: jnp.dot(a, b, precision=compute.precision)  # noqa: E731
        return jnp.sum(jnp.square(mm(jax.nn.silu(mm(h, gate)) * mm(h, up), down)))

    p = (draw(1, d, e), draw(2, e, d, f), draw(3, e, d, f), draw(4, e, f, d))
    q = (draw(5, d, args.top * f), draw(6, d, args.top * f), draw(7, args.top * f, d))
    skew = jnp.zeros(e).at[0].set(2.0)  # every token takes expert 0
    step = jax.jit(jax.grad(sparse, argnums=(0, 1)))
    return {
        "dense": (jax.jit(jax.grad(dense, argnums=(0, 1))), (q, x)),
        "balanced": (step, (p, x, jnp.zeros(e))),
        "skewed": (step, (p, x, skew)),
    }


def main() -> int:
    """Prints the table; exit status 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in {"embed": 256, "mlp": 512, "tokens": 4096, "experts": 8, "top": 2, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    steps = layers(args)
    wall, cpu = ({n: np.zeros(args.rounds) for n in steps} for _ in range(2))
    for f, a in steps.values():
        jax.block_until_ready(f(*a))
    for i in range(args.rounds):
        for name, (f, a) in steps.items():
            start, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(f(*a))
            wall[name][i], cpu[name][i] = time.perf_counter() - start, time.process_time() - used
    ratio = {n: [float(np.median(t[n] / t["dense"])) for t in (wall, cpu)] for n in steps}
    rows = [[n, 1e3 * float(np.median(wall[n])), 1e3 * float(np.median(cpu[n])), *ratio[n]] for n in steps]
    print(table(["layer", "ms", "CPU ms", "ratio", "CPU ratio"], rows))
    return int(max(ratio["balanced"][0], ratio["skewed"][0]) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
