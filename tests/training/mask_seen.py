"""An evaluation of the tests that says what an objective's final masks leave, and the loss under them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.evaluation.evaluation import Evaluation
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models import forward
from jaxpt.models.masks import MASK


@dataclass(frozen=True)
class MaskSeen(Evaluation):
    """`eval/ENTRY/AXIS`: how many positions are left; `eval/ENTRY/loss`: on tokens that count up."""

    def prepare(self, setting):
        """Compiles the loss once."""
        tokens = jnp.arange(2 * setting.sequence_length).reshape(2, -1) % setting.model.vocab_size

        @jax.jit
        def loss(params):
            logits = forward(setting.model, params, tokens, compute=setting.compute)
            return jnp.mean(from_logits(logits, jnp.roll(tokens, -1, 1))[0])

        def measure(step, params):
            left = {axis: float(np.sum(np.asarray(m) > 0)) for axis, m in params.get(MASK, {}).items()}
            return {**left, "loss": float(loss(params))}

        return measure
