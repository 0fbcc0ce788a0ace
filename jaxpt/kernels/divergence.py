"""Divergence of a student's next-token distribution from a teacher's, both at a temperature, from their logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Divergence = Callable[[jax.Array, jax.Array], jax.Array]  # (teacher's, student's logits [..., V]) -> nats [...]


def forward_kl(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Returns KL(p ‖ q), p the teacher's distribution and q the student's (Hinton et al. 2015, arXiv 1503.02531).

    Written as Σ p (t - s) + lse(s) - lse(t), whose gradient by s is q - p: zero to the last bit where s equals t.
    """
    p = jax.nn.softmax(teacher, axis=-1)
    lse = jax.nn.logsumexp(student, axis=-1) - jax.nn.logsumexp(teacher, axis=-1)
    return jnp.sum(p * (teacher - student), axis=-1) + lse


def reverse_kl(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Returns KL(q ‖ p), which asks the student for few of the teacher's modes (MiniLLM, arXiv 2306.08543)."""
    q = jax.nn.log_softmax(student, axis=-1)
    return jnp.sum(jnp.exp(q) * (q - jax.nn.log_softmax(teacher, axis=-1)), axis=-1)


def jensen_shannon(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Returns (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2: symmetric, at most log 2 (Lin 1991)."""
    p, q = jax.nn.log_softmax(teacher, axis=-1), jax.nn.log_softmax(student, axis=-1)
    m = jnp.logaddexp(p, q) - jnp.log(2.0)
    return jnp.sum(jnp.exp(p) * (p - m) + jnp.exp(q) * (q - m), axis=-1) / 2


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}
