"""Sampling text from a model with a key-value cache."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.decode import empty_cache, extend


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


def generate(
    config: ModelConfig,
    params: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    compute: Compute = Compute(),  # noqa: B008
) -> list[list[int]]:
    """Returns up to `max_new_tokens` tokens after each prompt; a sequence ends after the first of `stop_ids`.

    Prompt i's random numbers depend on the seed and i alone, not on the other prompts.

    Args:
        config: the model.
        params: its parameters.
        prompts: token ids, at least one each.
        max_new_tokens: at most.
        sampling: how tokens are drawn.
        seed: of the random numbers.
        stop_ids: ids that end a sequence (kept in the result).
        compute: dtypes.

    Raises:
        JaxptError: an empty prompt, or ids outside the vocabulary.
    """
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise JaxptError(f"prompt {i} has no tokens; give it text or a BOS token")
        if max(prompt) >= config.vocab_size or min(prompt) < 0:
            raise JaxptError(f"prompt {i} has token id {max(prompt)}, the model's vocabulary has {config.vocab_size}")
    if max_new_tokens < 1:
        return [[] for _ in prompts]
    lengths = np.array([len(p) for p in prompts], np.int32)
    width = int(lengths.max())
    tokens = np.zeros((len(prompts), width), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
    start, step = _functions(config, sampling, compute, _rounded(width + max_new_tokens))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(len(prompts)))
    new, cache = start(params, tokens, lengths, keys)
    out: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for n in range(max_new_tokens):
        for i, token in enumerate(np.asarray(new)):
            if i in open_rows:
                out[i].append(int(token))
                if int(token) in stop_ids:
                    open_rows.discard(i)
        if not open_rows or n == max_new_tokens - 1:
            break
        new, cache = step(params, cache, new, jnp.asarray(lengths + n), keys)
    return out


def _rounded(length: int) -> int:
    """Cache lengths in steps of 64, so that similar requests share a compilation."""
    return -(-length // 64) * 64


@functools.lru_cache(maxsize=16)
def _functions(config: ModelConfig, sampling: Sampling, compute: Compute, length: int) -> tuple[Callable, Callable]:
    def draw(logits: jax.Array, positions: jax.Array, keys: jax.Array) -> jax.Array:
        if sampling.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        each = jax.vmap(jax.random.fold_in)(keys, positions)
        return jax.vmap(jax.random.categorical)(each, filter_logits(logits, sampling)).astype(jnp.int32)

    @jax.jit
    def start(params: Any, tokens: jax.Array, lengths: jax.Array, keys: jax.Array) -> tuple[jax.Array, Any]:
        cache = empty_cache(config, tokens.shape[0], length, compute)
        at = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        logits, cache = extend(config, params, cache, tokens, at, compute)
        last = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return draw(last, lengths, keys), cache

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params: Any, cache: Any, new: jax.Array, positions: jax.Array, keys: jax.Array) -> tuple[jax.Array, Any]:
        logits, cache = extend(config, params, cache, new[:, None], positions[:, None], compute)
        return draw(logits[:, 0], positions + 1, keys), cache

    return start, step
