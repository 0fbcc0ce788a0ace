"""An objective: next-token loss with smoothed labels (Szegedy et al. 2016, arXiv 1512.00567, section 7).

PYTHONPATH=docs/examples jaxpt train --config=… --workdir=… --config.stages[0].objective.name=smoothed:Smoothed
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models.forward import forward
from jaxpt.objectives.objective import Inputs, Objective, Terms


@dataclass(frozen=True)
class Smoothed(Objective):
    """(1 - smoothing) · nll(target) + smoothing · the mean of nll over the vocabulary."""

    smoothing: float = option(0.1, "share of the probability that goes to all tokens alike")

    def terms(self, inputs: Inputs) -> Terms:
        """A microbatch's share: divided by the weights of the global batch, so that shares add up to its mean."""
        b = inputs.batch
        assert b is not None
        logits = forward(inputs.model, inputs.params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute)
        nll, lse = from_logits(logits, b["targets"])
        weights = b["loss_weights"] / inputs.weight_sum
        loss = jnp.sum(weights * nll)
        uniform = jnp.sum(weights * (lse - jnp.mean(logits, axis=-1)))
        named = {"loss": loss, "uniform_loss": uniform}  # reported as train/loss and train/uniform_loss
        return Terms((1 - self.smoothing) * loss + self.smoothing * uniform, named)
