"""How the next token is drawn: temperature, top-k, nucleus; random numbers that belong to a prompt and a position."""

from dataclasses import dataclass
from typing import NamedTuple

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
            raise JaxptError(f"temperature={self.temperature} must be at least 0 (0: the likeliest token)")
        if self.top_k < 0:
            raise JaxptError(f"top_k={self.top_k} must be at least 0 (0: all tokens)")
        if not 0 < self.top_p <= 1:
            raise JaxptError(f"top_p={self.top_p} must be above 0 and at most 1")


class Samplings(NamedTuple):
    """The options of `Sampling`, one of each for every row: float32, int32 and float32 `[B]`."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def samplings(sampling: Sampling, rows: int) -> Samplings:
    """Returns the same options for each of `rows`."""
    return Samplings(
        jnp.full(rows, sampling.temperature, jnp.float32),
        jnp.full(rows, sampling.top_k, jnp.int32),
        jnp.full(rows, sampling.top_p, jnp.float32),
    )


def filter_logits(logits: jax.Array, sampling: Sampling | Samplings) -> jax.Array:
    """Returns `logits [B, V]` divided by the temperature, -inf outside the top k and outside the nucleus.

    The nucleus (Holtzman et al. 2020, section 3.1) is the smallest set of likeliest tokens with probability `top_p`.
    """
    of = samplings(sampling, logits.shape[0]) if isinstance(sampling, Sampling) else sampling
    logits = logits / of.temperature[:, None]
    return jax.lax.cond(jnp.any((of.top_k > 0) | (of.top_p < 1)), lambda x: _filtered(x, of), lambda x: x, logits)


def _filtered(logits: jax.Array, of: Samplings) -> jax.Array:
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    last = jnp.clip(of.top_k - 1, 0, logits.shape[-1] - 1)
    least = jnp.take_along_axis(ranked, last[:, None], axis=-1)
    cut = (of.top_k > 0)[:, None]
    ranked = jnp.where(cut & (ranked < least), -jnp.inf, ranked)
    probabilities = jax.nn.softmax(ranked)
    kept = jnp.cumsum(probabilities, axis=-1) - probabilities < of.top_p[:, None]  # the one that crosses it belongs
    kept |= (of.top_p >= 1)[:, None]
    rows = jnp.arange(logits.shape[0])[:, None]
    logits = jnp.where(cut & (logits < least), -jnp.inf, logits)
    return jnp.where(jnp.zeros_like(kept).at[rows, order].set(kept), logits, -jnp.inf)


class Biases(NamedTuple):
    """What is added to logits: ids `[B, N]` int32 (filled up with ids beyond the vocabulary), and numbers `[B, N]`."""

    ids: jax.Array
    values: jax.Array


NO_ID = 2**31 - 1  # beyond any vocabulary


def biased(logits: jax.Array, biases: Biases) -> jax.Array:
    """Returns `logits [B, V]` with `biases` added; without any they are what they were."""
    if not biases.ids.shape[1]:
        return logits
    rows = jnp.arange(logits.shape[0])[:, None]
    add = lambda x: x.at[rows, biases.ids].add(biases.values, mode="drop")  # noqa: E731
    return jax.lax.cond(jnp.any(biases.values != 0), add, lambda x: x, logits)


def draw(logits: jax.Array, positions: jax.Array, keys: jax.Array, of: Samplings, biases: Biases) -> jax.Array:
    """Returns the next tokens `[B]` int32, at `positions [B]`, from `logits [B, V]`.

    `keys [B]` are the prompts' own: a token's random number depends on its prompt's key and its position alone.
    """
    logits = biased(logits, biases)
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def drawn(logits: jax.Array) -> jax.Array:
        at_position = jax.vmap(jax.random.fold_in)(keys, positions)
        greedy = of.temperature == 0
        some = of._replace(temperature=jnp.where(greedy, 1.0, of.temperature))
        sampled = jax.vmap(jax.random.categorical)(at_position, filter_logits(logits, some))
        return jnp.where(greedy, likeliest, sampled.astype(jnp.int32))

    return jax.lax.cond(jnp.any(of.temperature > 0), drawn, lambda _: likeliest, logits)
