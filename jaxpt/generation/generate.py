"""Continuing a batch of prompts of different lengths, token by token."""

import functools
import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.generation.cache import Cache, empty_cache, extend
from jaxpt.generation.sampling import Sampling, draw
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params

Drawn = tuple[jax.Array, Cache]  # new tokens [B] int32, and the cache with all before them


def generate(
    config: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    compute: Compute = Compute(),  # noqa: B008
    notice: Callable[[str], object] = warnings.warn,
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
        notice: gets a line once, when a sequence goes past the positions that the model was made for.

    Raises:
        JaxptError: an empty prompt, or ids outside the vocabulary.
    """
    _check(config, prompts)
    if max_new_tokens < 1:
        return [[] for _ in prompts]
    tokens, lengths = padded(prompts)
    start, step = _functions(config, sampling, compute, _rounded(tokens.shape[1] + max_new_tokens))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(len(prompts)))
    new, cache = start(params, tokens, lengths, keys)
    out: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    inside = True
    for n in range(max_new_tokens):
        if inside and (past := [i for i in open_rows if lengths[i] + n > config.max_positions]):
            inside = False
            notice(_past_positions(config, past[0], int(lengths[past[0]])))
        for i, token in enumerate(np.asarray(new)):
            if i in open_rows:
                out[i].append(int(token))
                if int(token) in stop_ids:
                    open_rows.discard(i)
        if not open_rows or n == max_new_tokens - 1:
            break
        still = np.array([i in open_rows for i in range(len(prompts))])
        new, cache = step(params, cache, new, jnp.asarray(lengths + n), jnp.asarray(still), keys)
    return out


def _past_positions(config: ModelConfig, i: int, length: int) -> str:
    room = config.max_positions - length
    where = f"prompt {i} and what follows it go" if room >= 0 else f"prompt {i} of {length:,} tokens goes"
    way_out = f"at most {room:,} new tokens stay within them" if room > 0 else "give a shorter prompt"
    return (
        f"{where} past the model's {config.max_positions:,} positions (max_positions), beyond which it was not "
        f"made to work; {way_out}"
    )


def _check(config: ModelConfig, prompts: Sequence[Sequence[int]]) -> None:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise JaxptError(f"prompt {i} has no tokens; give it text or a BOS token")
        if max(prompt) >= config.vocab_size or min(prompt) < 0:
            raise JaxptError(f"prompt {i} has token id {max(prompt)}, the model's vocabulary has {config.vocab_size}")


def padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompts as `tokens [B, S]` int32, zeros on the right up to the longest, and `lengths [B]` int32."""
    lengths = np.array([len(p) for p in prompts], np.int32)
    tokens = np.zeros((len(prompts), int(lengths.max())), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
    return tokens, lengths


def _rounded(length: int) -> int:
    """Cache lengths in steps of 64, so that similar requests share a compilation."""
    return -(-length // 64) * 64


@functools.lru_cache(maxsize=16)
def _functions(
    config: ModelConfig, sampling: Sampling, compute: Compute, length: int
) -> tuple[Callable[..., Drawn], Callable[..., Drawn]]:
    """Compiled: all prompts at once with the first new token, and one further token for each."""

    @jax.jit
    def start(params: Params, tokens: jax.Array, lengths: jax.Array, keys: jax.Array) -> Drawn:
        cache = empty_cache(config, tokens.shape[0], length, compute)
        at = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        logits, cache = extend(config, params, cache, tokens, at, compute, at < lengths[:, None])
        last = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return draw(last, lengths, keys, sampling), cache

    @functools.partial(jax.jit, donate_argnums=1)
    def step(
        params: Params, cache: Cache, new: jax.Array, positions: jax.Array, still: jax.Array, keys: jax.Array
    ) -> Drawn:
        logits, cache = extend(config, params, cache, new[:, None], positions[:, None], compute, still[:, None])
        return draw(logits[:, 0], positions + 1, keys, sampling), cache

    return start, step
