"""Head and cross-entropy at a vocabulary of 152k, forward and backward, against the products that they must do."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import compiled, seconds_per_call
from jaxpt.kernels.cross_entropy import cross_entropy
from jaxpt.kernels.token_chunks import chunk_length, summed
from jaxpt.models.head_product import head_product
from jaxpt.training.speed import peak_flops


def measure(sizes: Sizes, rows: Rows) -> None:
    """Chunks of the length that jaxpt chooses, longer and shorter ones, and all logits at once."""
    chosen = chunk_length(sizes.loss_rows, sizes.sequence, sizes.vocab)
    lengths = {"chosen": chosen, "a quarter": max(1, chosen // 4), "four times": min(4 * chosen, sizes.sequence)}
    for name, chunk in {**lengths, "all at once": sizes.sequence}.items():
        rows.measure(f"loss in chunks of {chunk} ({name})", 10, functools.partial(run, sizes, chunk))


def run(sizes: Sizes, chunk: int) -> dict[str, Any]:
    """Time and memory; the roofline is three products of tokens, width and vocabulary at the card's peak."""
    d, tokens = sizes.model.embed, sizes.loss_rows * sizes.sequence
    x = jax.random.normal(jax.random.key(0), (sizes.loss_rows, sizes.sequence, d), jnp.bfloat16)
    head = jax.random.normal(jax.random.key(1), (sizes.vocab, d)) * d**-0.5
    shape = x.shape[:2]
    targets = jax.random.randint(jax.random.key(2), shape, 0, sizes.vocab)
    weights = jnp.full(shape, 1 / tokens)

    def logits_of(head: Any, rest: Any, x: jax.Array) -> jax.Array:
        return head_product(x, head.astype(jnp.bfloat16), True, None)

    term = cross_entropy(logits_of, 0.0)

    def loss(head: jax.Array, x: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        return summed(term, head, {}, x, {"targets": targets, "weights": weights}, chunk)[0]  # type: ignore[arg-type]

    call, compile_s = compiled(jax.grad(loss, argnums=(0, 1)), head, x, targets, weights)
    seconds, spread = seconds_per_call(call, sizes)
    flops, peak = 6 * tokens * d * sizes.vocab, peak_flops(None, jax.devices()[:1])[0]
    return {"ms": seconds * 1e3, "roofline_ms": flops / peak * 1e3, "of_roofline": flops / peak / seconds,
            "spread": spread, "compile_s": compile_s}  # fmt: skip
