"""The key-value cache: the model's own blocks, attending over what earlier calls stored."""

import jax
import jax.numpy as jnp

from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.decoder import Cache, hidden, logits
from jaxpt.models.params import Params


def empty_cache(config: ModelConfig, batch: int, length: int, compute: Compute = Compute()) -> Cache:  # noqa: B008
    """Returns zeroed keys and values, each `[L, B, T, K, h]` in the compute dtype, for T = `length` positions."""
    shape = (len(config.layers), batch, length, config.kv_heads, config.head_dim)
    return jnp.zeros(shape, compute.jnp_dtype), jnp.zeros(shape, compute.jnp_dtype)


def extend(
    config: ModelConfig,
    params: Params,
    cache: Cache,
    tokens: jax.Array,
    positions: jax.Array,
    compute: Compute = Compute(),  # noqa: B008
    real: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Feeds tokens whose predecessors are in the cache; serves prompts (S = P) and single steps (S = 1) alike.

    A query sees the cached entries at its own position and below. Prompts of unequal length are padded on the right:
    what the padding wrote lies above every real query's position until a real token overwrites it.

    Args:
        config: the model.
        params: its parameters.
        cache: from `empty_cache` or an earlier call.
        tokens: `[B, S]` int.
        positions: `[B, S]` int, each token's position, below the cache's length (a larger one is dropped unseen:
            the caller sizes the cache).
        compute: dtypes; the attention implementation is always "xla" here.
        real: `[B, S]` bool, False at padding, which goes to no expert of a mixture; None: there is none.

    Returns:
        Float32 logits `[B, S, V]` and the cache with these tokens in it.
    """
    segment_ids = None if real is None else real.astype(jnp.int32)
    x, extended, _ = hidden(config, params, tokens, segment_ids, positions, compute, cache)
    assert extended is not None, "a cache was given"
    return logits(config, params, x, compute)[..., : config.vocab_size], extended
