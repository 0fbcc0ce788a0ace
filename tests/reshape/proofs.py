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


def reshaped(rewrite, params):
    """Logits of what the rewrite makes."""
    return logits(rewrite.target, apply(rewrite, params))


def close(a, b, tol=3e-5):
    """Equal up to rounding, relative to the largest logit."""
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * np.abs(b).max())


def batches(config, count=2, seed=0, rows=2, length=12):
    """Batches of random tokens, the last token of a row being padding."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        tokens = rng.integers(0, config.vocab_size, (rows, length)).astype(np.int32)
        segments = np.ones((rows, length), np.int32)
        segments[:, -1] = 0
        weights = np.ones((rows, length), np.float32)
        weights[:, -2:] = 0
        positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        out.append(
            {
                "tokens": tokens,
                "targets": np.roll(tokens, -1, 1),
                "segment_ids": segments,
                "positions": positions,
                "loss_weights": weights,
            }
        )
    return out
