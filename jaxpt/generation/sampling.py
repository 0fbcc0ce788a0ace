"""How the next token is drawn: temperature, top-k, nucleus; random numbers that belong to a prompt and a position."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: `temperature` 0 takes the likeliest; `top_k` 0 and `top_p` 1 keep all.

    Raises:
        JaxptError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise JaxptError(f"--temperature={self.temperature} must be at least 0 (0: the likeliest token)")
        if self.top_k < 0:
            raise JaxptError(f"--top_k={self.top_k} must be at least 0 (0: all tokens)")
        if not 0 < self.top_p <= 1:
            raise JaxptError(f"--top_p={self.top_p} must be above 0 and at most 1")


def filter_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns `logits [B, V]` divided by the temperature, -inf outside the top k and outside the nucleus.

    The nucleus (Holtzman et al. 2020, section 3.1) is the smallest set of likeliest tokens with probability `top_p`.
    """
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        ranked = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
        kept = jnp.cumsum(ranked, axis=-1) - ranked < sampling.top_p  # the token that crosses top_p still belongs
        rows = jnp.arange(logits.shape[0])[:, None]
        logits = jnp.where(jnp.zeros_like(kept).at[rows, order].set(kept), logits, -jnp.inf)
    return logits


def draw(logits: jax.Array, positions: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns the next tokens `[B]` int32, at `positions [B]`, from `logits [B, V]`.

    `keys [B]` are the prompts' own: a token's random number depends on its prompt's key and its position alone.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    at_position = jax.vmap(jax.random.fold_in)(keys, positions)
    return jax.vmap(jax.random.categorical)(at_position, filter_logits(logits, sampling)).astype(jnp.int32)
