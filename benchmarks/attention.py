"""Attention on a CPU, `blocked` beside `xla`: `python -m benchmarks.attention [--figure=FILE]`.

Forward and backward pass of one layer (4 heads, 2 kv heads of 64) over packed rows. CPU seconds of this process, the
least of some runs, as the machine is shared; temporary memory as the compiler counts it. A row is printed when it is
measured. The target is 8 times at rows of 4,096 and documents of 500.
"""

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention import attention
from jaxpt.kernels.attention.comparison import documents

SIZES = ((1, 512, 125), (1, 1024, 125), (1, 1024, 500), (1, 2048, 500), (1, 4096, 125), (1, 4096, 500), (1, 4096, 4096))
Row = tuple[str, int, int, int, float, float]


def measure(implementation: str, rows: int, length: int, mean: int, runs: int) -> tuple[float, float]:
    """Returns CPU seconds of a forward and backward pass, and temporary MiB."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (rows, length, heads, 64)) for key, heads in zip(keys, (4, 2, 2)))
    ids = jnp.concatenate([jnp.asarray(documents(length, mean, seed)) for seed in range(rows)])

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        return (attention(q, k, v, scale=0.125, segment_ids=ids, implementation=implementation) ** 2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v, ids).compile()
    jax.block_until_ready(compiled(q, k, v, ids))
    seconds = []
    for _ in range(runs):
        begun = time.process_time()
        jax.block_until_ready(compiled(q, k, v, ids))
        seconds.append(time.process_time() - begun)
    return min(seconds), compiled.memory_analysis().temp_size_in_bytes / 2**20


def draw(rows: Sequence[Row], file: str) -> None:
    """Draws time and memory against the length of rows, a line per implementation and length of documents."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, style in (("xla", "--"), ("blocked", "-")):
        for color, mean in enumerate(sorted({row[3] for row in rows})):
            mine = sorted(row for row in rows if row[0] == name and row[3] == mean and row[1] == 1)
            for axis, column in zip(axes, (4, 5)):
                label = f"{name}, documents of {mean:,}"
                axis.plot([r[2] for r in mine], [r[column] for r in mine], f"o{style}", c=f"C{color}", label=label)
    for axis, title in zip(axes, ("CPU seconds", "temporary MiB")):
        axis.set(xscale="log", yscale="log", xlabel="tokens of a row", title=title)
        axis.set_xticks([512, 1024, 2048, 4096], ["512", "1,024", "2,048", "4,096"], minor=False)
        axis.minorticks_off()
    axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", metavar="FILE", help="where to draw, a png")
    parser.add_argument("--runs", type=int, default=3, help="of each; the least counts")
    parser.add_argument("--batch", type=int, default=1, help="rows")
    a = parser.parse_args()
    rows: list[Row] = []
    for b, length, mean in SIZES:
        pair = [measure(name, b * a.batch, length, mean, a.runs) for name in ("xla", "blocked")]
        rows += [(name, b, length, mean, *found) for name, found in zip(("xla", "blocked"), pair)]
        (slow, much), (fast, little) = pair
        print(f"{b * a.batch} x {length:,}, documents of {mean:,}: xla {slow:.3f} s, {much:,.0f} MiB", end="; ")
        print(f"blocked {fast:.3f} s, {little:,.0f} MiB; {slow / fast:.1f} times as fast", flush=True)
    if a.figure:
        draw(rows, a.figure)


if __name__ == "__main__":
    main()
