"""Cross-entropy over a vocabulary, of given logits or as a term of a sum over tokens."""

import jax
import jax.numpy as jnp

from jaxpt.kernels.token_chunks import Leaves, LogitsOf, Tokens, TokenSum


def from_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns each token's negative log-likelihood in nats, and log-sum-exp, float32 `[B, S]`.

    The one place where a loss per token is computed: training, bits per byte, perplexities and calibration use it.

    Args:
        logits: `[B, S, V]` float32; -inf where a column is not a token.
        targets: `[B, S]` int.
    """
    lse = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None].astype(jnp.int32), axis=-1)[..., 0]
    return lse - picked, lse


def cross_entropy(logits_of: LogitsOf, z_loss: float) -> TokenSum:
    """Returns the term `Σ weights (nll + z_loss lse²)`, for `jaxpt.kernels.token_chunks.summed`.

    Of the tokens it reads `targets` (int) and `weights` (float32), both `[B, S]`; its facts are `(nll, lse)` `[B, S]`.

    Args:
        logits_of: the unembedding.
        z_loss: weight of the squared log-sum-exp (PaLM, arXiv 2204.02311, section 5).
    """

    def term(head: Leaves, rest: Leaves, x: jax.Array, tokens: Tokens) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        nll, lse = from_logits(logits_of(head, rest, x), tokens["targets"])
        return jnp.sum(tokens["weights"] * (nll + z_loss * jnp.square(lse))), (nll, lse)

    return term
