"""Next-token loss: one mean over the global batch, with the parts that a report shows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.kernels import cross_entropy
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import hidden_and_routing, unembed
from jaxpt.objectives import balance
from jaxpt.training.config import ObjectiveConfig

Batch = Mapping[str, jax.Array]


def next_token(
    config: ModelConfig,
    params: Mapping[str, Any],
    batch: Batch,
    weight_sum: jax.Array,
    objective: ObjectiveConfig,
    compute: Compute,
    sources: int,
    rows_per_device: int,
    totals: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns this (micro)batch's share of the loss, Σ w·(nll + z·lse²) / `weight_sum`, and sums to report.

    Shares of all microbatches and hosts add up to the one mean over the global batch, whatever their masks are.

    Args:
        config: the model.
        params: its parameters.
        batch: `tokens`, `targets`, `segment_ids`, `positions` `[B, S]`, `loss_weights` `[B, S]`, `source_id` `[B]`.
        weight_sum: Σ loss weights of the global batch.
        objective: z-loss weight and chunk length.
        compute: dtypes, remat, attention.
        sources: number of sources, for the sums per source.
        rows_per_device: rows of one microbatch on one device, from which the chunk length follows.
        totals: routing statistics of the global batch, where this batch is a microbatch of it (None: it is whole).

    Returns:
        The share and `{"nll", "z": scalars divided by weight_sum, "source_nll", "source_weight": [sources]}`.
    """
    x, routing = hidden_and_routing(config, params, batch["tokens"], batch["segment_ids"], batch["positions"], compute)
    weights = batch["loss_weights"] / weight_sum
    head_name = "embed" if config.tie_embeddings else "head"
    head = {head_name: params[head_name]}
    rest = jax.lax.stop_gradient({k: v for k, v in params.items() if k != head_name})

    def logits_of(head: Any, rest: Any, x: jax.Array) -> jax.Array:
        return unembed(config, {**rest, **head}, x, compute)

    length = x.shape[1]
    chunk = objective.chunk or cross_entropy.chunk_length(rows_per_device, length, config.vocab_size)
    args = (logits_of, head, rest, x, batch["targets"], weights, objective.z_loss)
    loss, nll, lse = cross_entropy.dense(*args) if chunk >= length else cross_entropy.chunked(*args, chunk)
    per_row = jnp.sum(batch["loss_weights"] * nll, axis=1), jnp.sum(batch["loss_weights"], axis=1)
    by_source = [jax.ops.segment_sum(v, batch["source_id"], num_segments=sources) for v in per_row]
    sums = {
        "nll": jnp.sum(weights * nll),
        "z": objective.z_loss * jnp.sum(weights * jnp.square(lse)),
        "source_nll": by_source[0],
        "source_weight": by_source[1],
    }
    if routing is not None:
        extra = _balance(routing, totals or routing, objective)
        loss, sums = loss + extra, sums | {"routing": routing, "balance": extra}
    return loss, sums


def _balance(
    routing: Mapping[str, jax.Array], totals: Mapping[str, jax.Array], objective: ObjectiveConfig
) -> jax.Array:
    """This microbatch's share of the routers' losses over the global batch."""
    total = jnp.zeros(())
    if objective.balance:
        total += objective.balance * balance.load_balancing(routing, totals["counts"], totals["tokens"])
    if objective.sequence_balance:
        total += objective.sequence_balance * balance.sequence_balancing(routing, totals["sequences"])
    if objective.router_z:
        total += objective.router_z * balance.router_z(routing, totals["tokens"])
    return total
