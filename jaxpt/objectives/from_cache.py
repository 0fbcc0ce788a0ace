"""Distillation from a cache of teacher targets: the same loss as online, the teacher's distribution a few ids of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.kernels.sparse_targets import sparse_cross_entropy
from jaxpt.kernels.token_chunks import Leaves, Tokens, TokenSum, chunk_length, summed
from jaxpt.models.forward import hidden_and_routing, unembed
from jaxpt.objectives.next_token import unembedding, weighted
from jaxpt.objectives.objective import Inputs, Terms

if TYPE_CHECKING:
    from jaxpt.objectives.distill import Distill


def refuse(objective: "Distill") -> None:
    """Raises a JaxptError for what a cache cannot give; the message begins with the option's name."""
    first, last = objective.temperature.values
    if first != last:
        raise JaxptError(
            f"temperature is {objective.temperature}, a cache has one; set temperature.start and temperature.end to "
            f"that of the cache, or leave cache out"
        )
    if objective.divergence != "forward_kl":
        raise JaxptError(
            f"divergence is {objective.divergence}, which needs the teacher's whole distribution; set "
            f"divergence=forward_kl, or leave cache out"
        )
    if objective.hidden.values != (0.0, 0.0):
        raise JaxptError(
            f"hidden is {objective.hidden}, a cache holds no streams of the teacher; set hidden.start=0 and "
            f"hidden.end=None, or leave cache out"
        )


def terms(objective: "Distill", inputs: Inputs) -> Terms:
    """Returns the share of the loss; named `loss` (nll alone), `divergence`, whose mean over draws is that of the whole
    distributions (of top-k targets: that of their k + 1 events), and `cached_agreement`: the share of positions where
    the student finds the cache's heaviest id likeliest. Of top-k that is the teacher's likeliest token; of draws it is
    the one drawn most often (of several the first), another where the teacher is uncertain."""
    b: Mapping[str, Any] | None = inputs.batch
    assert b is not None
    x, routing = hidden_and_routing(
        inputs.model, inputs.params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute
    )
    head, rest, _ = unembedding(inputs)
    fixed = {"student": rest, "alpha": inputs.scheduled["alpha"]}
    taught = {name: b[name] for name in ("teacher_ids", "teacher_weights", "teacher_entropy")}
    tokens = {**weighted(inputs), **taught}
    chunk = objective.chunk or chunk_length(inputs.rows_per_device, x.shape[1], inputs.model.vocab_size, x.shape[2])
    loss, (nll, lse, *facts) = summed(_term(objective, inputs), head, fixed, x, tokens, chunk)
    out = objective.of_tokens(inputs, loss, nll, lse)
    mean = [jnp.sum(tokens["weights"] * of_token) for of_token in facts]
    out = out._replace(named={**out.named, "divergence": mean[0], "cached_agreement": mean[1]})
    return out if routing is None else objective.with_balance(out, routing, inputs.totals)


def _term(objective: "Distill", inputs: Inputs) -> TokenSum:
    """The sum over a chunk's tokens; its facts are nll, log-sum-exp, divergence and agreement, each `[B, C]`."""
    config, compute = inputs.model, inputs.compute
    t, z_loss = objective.temperature.values[0], objective.z_loss

    def term(
        head: Leaves, fixed: Mapping[str, Any], x: jax.Array, tokens: Tokens
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        logits = unembed(config, {**fixed["student"], **head}, x, compute)
        nll, lse = from_logits(logits, tokens["targets"])
        own, own_lse = (logits, lse) if t == 1 else (logits / t, jax.nn.logsumexp(logits / t, axis=-1))
        kept = sparse_cross_entropy(own, own_lse, tokens["teacher_ids"], tokens["teacher_weights"])
        alpha = fixed["alpha"]
        of_token = (1 - alpha) * nll + alpha * t**2 * kept + z_loss * jnp.square(lse)
        heaviest = jnp.argmax(tokens["teacher_weights"], axis=-1, keepdims=True)
        theirs = jnp.take_along_axis(tokens["teacher_ids"], heaviest, axis=-1)
        agrees = jnp.take_along_axis(logits, theirs, axis=-1)[..., 0] == jnp.max(logits, axis=-1)
        facts = nll, lse, kept - tokens["teacher_entropy"], agrees.astype(jnp.float32)
        return jnp.sum(tokens["weights"] * of_token), facts

    return term
