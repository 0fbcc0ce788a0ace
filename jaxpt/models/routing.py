"""Which experts a token goes to, with which weight, and what the balance of a batch is judged by."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxpt.models.moe_config import MoeConfig

# per layer, sums over valid tokens: "counts", "probs" [E]; "entropy", "z", "tokens", "sequence", "sequences" scalars
Routing = Mapping[str, jax.Array]


def route(
    config: MoeConfig,
    router: jax.Array,
    bias: jax.Array | None,
    x: jax.Array,
    valid: jax.Array,
    dtype: DTypeLike,
    allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Routing]:
    """Chooses experts for `x [B, S, D]`.

    Ties go to the lower index (`lax.top_k` is stable), so that equal router rows choose the same experts every time.

    Args:
        config: the layers' facts.
        router: `[D, E]`.
        bias: `[E]`, added to the probabilities for the choice only (Wang et al. 2024, eq. 3); no gradient. Or None.
        x: what the experts will read.
        valid: `[B, S]` bool, tokens that count in the statistics.
        dtype: of logits and softmax.
        allowed: `[E]` bool, the experts that may be chosen: the logits of the others are -inf. None: all.

    Returns:
        Experts `[B, S, k]` int32, their weights `[B, S, k]` float32, and the statistics.
    """
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    logits = jnp.einsum("bsd,de->bse", x.astype(dtype), router.astype(dtype), precision=precision)
    if allowed is not None:
        logits = jnp.where(allowed, logits, -jnp.inf)
    probs = jax.nn.softmax(logits, axis=-1).astype(jnp.float32)
    score = probs if bias is None else probs + jax.lax.stop_gradient(bias.astype(jnp.float32))
    if allowed is not None:
        score = jnp.where(allowed, score, -jnp.inf)  # whatever its selection bias
    _, experts = jax.lax.top_k(jax.lax.stop_gradient(score), config.experts_per_token)
    weights = jnp.take_along_axis(probs, experts, axis=-1)
    if config.weights == "renormalised":
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return experts, weights * config.route_scale, _statistics(config, logits.astype(jnp.float32), probs, experts, valid)


def _statistics(
    config: MoeConfig, logits: jax.Array, probs: jax.Array, experts: jax.Array, valid: jax.Array
) -> Routing:
    mask = valid.astype(jnp.float32)
    chosen = jnp.sum(jax.nn.one_hot(experts, config.experts, dtype=jnp.float32), axis=2) * mask[..., None]
    counts, shares = jnp.sum(chosen, axis=1), jnp.sum(probs * mask[..., None], axis=1)  # per sequence [B, E]
    length = jnp.sum(mask, axis=1)
    some = jnp.maximum(length, 1.0)[:, None]
    uneven = config.experts * jnp.sum(counts / (some * config.experts_per_token) * (shares / some), axis=-1)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    entropy = log_z - jnp.sum(jnp.where(probs > 0, probs * logits, 0.0), axis=-1)
    return {
        "counts": jax.lax.stop_gradient(jnp.sum(counts, axis=0)),
        "probs": jnp.sum(shares, axis=0),
        "entropy": jax.lax.stop_gradient(jnp.sum(entropy * mask)),
        "z": jnp.sum(jnp.square(log_z) * mask),
        "tokens": jnp.sum(mask),
        "sequence": jnp.sum(uneven * (length > 0)),
        "sequences": jnp.sum(length > 0).astype(jnp.float32),
    }
