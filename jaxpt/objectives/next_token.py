"""Next-token loss: one mean over the global batch, with the parts that a report shows."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.kernels.cross_entropy import cross_entropy
from jaxpt.kernels.token_chunks import LogitsOf, chunk_length, summed
from jaxpt.models.forward import head_of, hidden_and_routing, unembed
from jaxpt.models.params import Params
from jaxpt.objectives.balance import Balance
from jaxpt.objectives.objective import Inputs, Objective, Sums, Terms


@dataclass(frozen=True)
class NextToken(Balance, Objective):
    """Cross-entropy of the next token, Σ w·(nll + z·lse²) / Σ w over the global batch, and the balance of experts."""

    z_loss: float = option(0.0, "weight of the squared log-sum-exp of the logits (PaLM, arXiv 2204.02311, section 5)")
    chunk: int | None = option(None, "positions of a row whose logits exist at once; None: chosen from the size")

    def terms(self, inputs: Inputs) -> Terms:
        """Returns the share of the loss; named `loss` (nll alone), `z_loss` and `balance_loss`; sums per source."""
        b = inputs.batch
        assert b is not None
        x, routing = hidden_and_routing(
            inputs.model, inputs.params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute
        )
        terms = self.cross_entropy(inputs, x)
        return terms if routing is None else self.with_balance(terms, routing, inputs.totals)

    def cross_entropy(self, inputs: Inputs, x: jax.Array) -> Terms:
        """Returns the terms of the last stream `x [B, S, D]`, without those of the routers."""
        head, rest, logits_of = unembedding(inputs)
        tokens = weighted(inputs)
        chunk = self.chunk or chunk_length(inputs.rows_per_device, x.shape[1], inputs.model.vocab_size, x.shape[2])
        loss, (nll, lse) = summed(cross_entropy(logits_of, self.z_loss), head, rest, x, tokens, chunk)
        return self.of_tokens(inputs, loss, nll, lse)

    def of_tokens(self, inputs: Inputs, loss: jax.Array, nll: jax.Array, lse: jax.Array) -> Terms:
        """Returns the terms of a loss, with what a report shows of each token's nll and log-sum-exp `[B, S]`."""
        b = inputs.batch
        assert b is not None
        weights = b["loss_weights"] / inputs.weight_sum
        per_row = jnp.sum(b["loss_weights"] * nll, axis=1), jnp.sum(b["loss_weights"], axis=1)
        by_source = [jax.ops.segment_sum(v, b["source_id"], num_segments=inputs.sources) for v in per_row]
        named = {"loss": jnp.sum(weights * nll), "z_loss": self.z_loss * jnp.sum(weights * jnp.square(lse))}
        return Terms(loss, named, {"source_nll": by_source[0], "source_weight": by_source[1]})

    def report(self, sums: Sums) -> dict[str, jax.Array]:
        """Returns the sums per source, `[sources]`, and the metrics of the routers."""
        return {k: sums[k] for k in ("source_nll", "source_weight")} | super().report(sums)


def unembedding(inputs: Inputs) -> tuple[Params, Params, LogitsOf]:
    """Returns the parameters of the head, the others without gradient, and the logits as a function of both."""
    config, params = inputs.model, inputs.params
    head = head_of(config, params)
    rest = jax.lax.stop_gradient({k: v for k, v in params.items() if k not in head})

    def logits_of(head: Params, rest: Params, x: jax.Array) -> jax.Array:
        return unembed(config, {**rest, **head}, x, inputs.compute)

    return head, rest, logits_of


def weighted(inputs: Inputs) -> dict[str, jax.Array]:
    """Returns the targets, and weights that sum to 1 over the global batch, both `[B, S]`."""
    b = inputs.batch
    assert b is not None
    return {"targets": b["targets"], "weights": b["loss_weights"] / inputs.weight_sum}
