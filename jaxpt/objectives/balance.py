"""Balance of experts: losses over the global batch, the selection bias's rule, and what a report shows.

Everything here takes sums over tokens (`jaxpt.models.routing.Routing`, stacked over layers), so that microbatches and
devices only have to be added up.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import hidden_and_routing
from jaxpt.models.params import Params
from jaxpt.models.routing import Routing
from jaxpt.models.specs import flatten, param_specs, unflatten
from jaxpt.objectives.objective import Inputs, Sums, Terms


@dataclass(frozen=True)
class Balance:
    """Options and methods of an objective whose model may route tokens to experts: `class Mine(Balance, Objective)`.

    Its `terms` passes what it made of the batch through `with_balance`.
    """

    balance: float = option(0.0, "weight of the load-balancing loss of experts over the global batch")
    sequence_balance: float = option(0.0, "weight of the load-balancing loss of experts per sequence")
    router_z: float = option(0.0, "weight of the router's z-loss")
    bias_rate: float = option(0.0, "step of the router's selection bias, 0 freezes it")

    def with_balance(self, terms: Terms, routing: Routing, totals: Routing | None) -> Terms:
        """Returns `terms` with this microbatch's share of the routers' losses over the global batch.

        Args:
            terms: what the objective made of the microbatch.
            routing: the microbatch's routing statistics.
            totals: those of the global batch, None where the microbatch is the whole of it.
        """
        totals = totals or routing
        share = jnp.zeros(())
        if self.balance:
            share += self.balance * load_balancing(routing, totals["counts"], totals["tokens"])
        if self.sequence_balance:
            share += self.sequence_balance * sequence_balancing(routing, totals["sequences"])
        if self.router_z:
            share += self.router_z * router_z(routing, totals["tokens"])
        named, sums = {**terms.named, "balance_loss": share}, {**terms.sums, "routing": routing}
        return Terms(terms.loss + share, named, sums)

    def first_pass(self, inputs: Inputs) -> Routing | None:
        """Returns the routing statistics; None where the microbatch is the whole batch, or no loss needs them: the
        balance loss's gradient needs every microbatch's counts before the first of them."""
        wanted = self.balance or self.sequence_balance or self.router_z
        if inputs.microbatches == 1 or inputs.model.moe is None or not wanted:
            return None
        b = inputs.batch
        assert b is not None
        args = b["tokens"], b["segment_ids"], b["positions"], inputs.compute
        return hidden_and_routing(inputs.model, inputs.params, *args)[1]

    def after_update(self, model: ModelConfig, params: Params, sums: Sums) -> Params:
        """Returns the parameters with the selection bias moved by the load of the global batch."""
        if "routing" not in sums:
            return params
        return update_selection_bias(model, params, sums["routing"]["counts"], self.bias_rate)

    def report(self, sums: Sums) -> dict[str, jax.Array]:
        """Returns the metrics of the routers, where there are any."""
        return metrics(sums["routing"]) if "routing" in sums else {}


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


def update_selection_bias(config: ModelConfig, params: Params, counts: jax.Array, rate: float) -> Params:
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
