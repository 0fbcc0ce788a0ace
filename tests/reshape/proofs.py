"""What the proofs of this room share: host parameters, logits of a small batch, closeness of functions."""

import functools

import jax
import numpy as np

from jaxpt.models import forward
from jaxpt.reshape.apply import apply
from tests.models import tiny

TOKENS = jax.random.randint(jax.random.key(7), (2, 12), 0, 61)


def random_params(config, seed=0):
    """Host arrays whose gains and biases matter."""
    return jax.tree.map(np.asarray, tiny.random_params(config, seed))


@functools.lru_cache(maxsize=256)
def _compiled(config):
    return jax.jit(lambda p: forward(config, p, TOKENS))


def logits(config, params):
    """Logits of TOKENS, float32 on the host."""
    return np.asarray(_compiled(config)(params))


def reshaped(plan, params):
    """Logits of what the plan makes."""
    return logits(plan.target, apply(plan, params))


def close(a, b, tol=3e-5):
    """Equal up to rounding, relative to the largest logit."""
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * np.abs(b).max())
