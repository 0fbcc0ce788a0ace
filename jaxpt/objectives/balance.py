"""Balance of experts: losses over the global batch, the selection bias's rule, and what a report shows.

Everything here takes sums over tokens (`jaxpt.models.routing.Routing`, stacked over layers), so that microbatches and
devices only have to be added up.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.models.config import ModelConfig
from jaxpt.models.specs import flatten, param_specs, unflatten

Routing = Mapping[str, jax.Array]


def load_balancing(routing: Routing, counts: jax.Array | None = None, tokens: jax.Array | None = None) -> jax.Array:
    """Returns E Σ_i f_i P_i, mean over layers: 1 when even, E / k at full collapse (Fedus et al. 2021, eq. 4).

    f_i is expert i's share of the choices, without gradient; P_i its mean probability. With `counts [L, E]` and
    `tokens [L]` of the whole global batch, the result is this microbatch's share: shares add up to the loss of the
    global batch exactly, as it is linear in P (Qiu et al. 2025, arXiv 2501.11873).
    """
    counts = routing["counts"] if counts is None else counts
    tokens = routing["tokens"] if tokens is None else tokens
    share = counts / jnp.maximum(jnp.sum(counts, -1, keepdims=True), 1.0)
    mean = routing["probs"] / jnp.maximum(tokens, 1.0)[:, None]
    return jnp.mean(counts.shape[-1] * jnp.sum(jax.lax.stop_gradient(share) * mean, axis=-1))


def sequence_balancing(routing: Routing, sequences: jax.Array | None = None) -> jax.Array:
    """Returns the same loss per sequence, mean over sequences and layers (DeepSeek-V3, arXiv 2412.19437, eq. 17)."""
    count = routing["sequences"] if sequences is None else sequences
    return jnp.mean(routing["sequence"] / jnp.maximum(count, 1.0))


def router_z(routing: Routing, tokens: jax.Array | None = None) -> jax.Array:
    """Returns the mean of logsumexp(router logits)², over tokens and layers (Zoph et al. 2022, eq. 5)."""
    tokens = routing["tokens"] if tokens is None else tokens
    return jnp.mean(routing["z"] / jnp.maximum(tokens, 1.0))


def update_selection_bias(config: ModelConfig, params: Any, counts: jax.Array, rate: float) -> Any:
    """Returns the parameters with b_i += rate · sign(mean count − count_i), once per optimizer step.

    Source: Wang et al. 2024, arXiv 2408.15664, algorithm 1. `counts [L, E]` are those of the global batch. Rate 0, or a
    model without selection bias, changes nothing.
    """
    if rate == 0 or config.moe is None or not config.moe.selection_bias:
        return params
    flat = flatten(params)
    for path, spec in flatten(param_specs(config)).items():
        if spec.state:
            flat[path] = flat[path] + rate * jnp.sign(jnp.mean(counts, -1, keepdims=True) - counts)
    return unflatten(flat)


def metrics(routing: Routing) -> dict[str, jax.Array]:
    """Returns scalars over the layers.

    `moe/max_violation`: largest over layers of max_i count_i / mean count − 1; `moe/entropy`: mean entropy of a token's
    probabilities, nats; `moe/dead_experts`: experts without a token, all layers; `moe/min_load`, `moe/max_load`:
    smallest and largest share of a layer's choices, in units of the even share.
    """
    counts = routing["counts"]
    load = counts / jnp.maximum(jnp.mean(counts, -1, keepdims=True), 1e-9)
    return {
        "moe/max_violation": jnp.max(load) - 1.0,
        "moe/max_load": jnp.max(load),
        "moe/min_load": jnp.min(load),
        "moe/entropy": jnp.mean(routing["entropy"] / jnp.maximum(routing["tokens"], 1.0)),
        "moe/dead_experts": jnp.sum(counts == 0).astype(jnp.float32),
    }
