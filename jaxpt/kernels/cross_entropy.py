"""Cross-entropy over a vocabulary: dense, or chunk by chunk so that [B, S, V] never exists."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Leaves = Mapping[str, "jax.Array | np.ndarray | Leaves"]  # what the unembedding reads of the parameters
LogitsOf = Callable[[Leaves, Leaves, jax.Array], jax.Array]  # (head, rest, x [B, C, D]) -> float32 logits [B, C, V]
Losses = tuple[jax.Array, jax.Array, jax.Array]
Pieces = tuple[jax.Array, jax.Array, jax.Array]  # x, targets and weights, of one chunk or a leading axis of all


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


def dense(
    logits_of: LogitsOf, head: Leaves, rest: Leaves, x: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float
) -> Losses:
    """Returns `Σ weights (nll + z_loss lse²)` (a scalar to differentiate), and nll and lse `[B, S]` (not to).

    Args:
        logits_of: the unembedding.
        head: parameters that `logits_of` reads and that get a gradient.
        rest: what else it reads, without gradient.
        x: `[B, S, D]` last stream.
        targets: `[B, S]` int.
        weights: `[B, S]` float32.
        z_loss: weight of the squared log-sum-exp (PaLM, arXiv 2204.02311, section 5).
    """
    nll, lse = from_logits(logits_of(head, rest, x), targets)
    loss = jnp.sum(weights * (nll + z_loss * jnp.square(lse)))
    return loss, jax.lax.stop_gradient(nll), jax.lax.stop_gradient(lse)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 6, 7))
def chunked(
    logits_of: LogitsOf,
    head: Leaves,
    rest: Leaves,
    x: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    z_loss: float,
    chunk: int,
) -> Losses:
    """`dense` over `chunk` positions of each row at a time: logits take B × chunk × V instead of B × S × V.

    The forward pass of a gradient computes each chunk's gradient on the spot, so the logits are computed once: three
    products with the head in all, as many as `dense`. Batches stay sharded as they are, the rows being whole.
    `chunk` must divide S.
    """

    def body(total: jax.Array, piece: Pieces) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x_c, targets_c, weights_c = piece
        loss, nll, lse = dense(logits_of, head, rest, x_c, targets_c, weights_c, z_loss)
        return total + loss, (nll, lse)

    pieces = (_split(x, chunk), _split(targets, chunk), _split(weights, chunk))
    total, (nll, lse) = jax.lax.scan(body, jnp.zeros((), jnp.float32), pieces)
    return total, _join(nll), _join(lse)


def _forward(
    logits_of: LogitsOf,
    head: Leaves,
    rest: Leaves,
    x: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    z_loss: float,
    chunk: int,
) -> tuple[Losses, tuple[Leaves, jax.Array]]:
    def body(carry: tuple[jax.Array, Leaves], piece: Pieces) -> tuple[tuple[jax.Array, Leaves], Losses]:
        total, d_head = carry
        x_c, t_c, w_c = piece

        def loss_of(head: Leaves, x_c: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            loss, nll, lse = dense(logits_of, head, rest, x_c, t_c, w_c, z_loss)
            return loss, (nll, lse)

        (loss, aux), (dh, dx) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(head, x_c)
        return (total + loss, jax.tree.map(jnp.add, d_head, dh)), (*aux, dx)

    zero = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, head))
    pieces = (_split(x, chunk), _split(targets, chunk), _split(weights, chunk))
    (total, d_head), (nll, lse, dx) = jax.lax.scan(body, zero, pieces)
    return (total, _join(nll), _join(lse)), (d_head, _join(dx))


def _backward(
    logits_of: LogitsOf, z_loss: float, chunk: int, saved: tuple[Leaves, jax.Array], cotangents: Losses
) -> tuple[Leaves, None, jax.Array, None, None]:
    d_head, dx = saved
    g = cotangents[0]
    return jax.tree.map(lambda d: d * g.astype(d.dtype), d_head), None, dx * g.astype(dx.dtype), None, None


chunked.defvjp(_forward, _backward)


def chunk_length(batch: int, sequence: int, vocab: int, limit: int = 64 * 2**20) -> int:
    """Returns the longest divisor of S whose float32 logits `[B, chunk, V]` stay within `limit` bytes, at least 1.

    `batch` counts the rows of one device.
    """
    fits = [c for c in range(1, sequence + 1) if sequence % c == 0 and batch * c * vocab * 4 <= limit]
    return max(fits, default=1)


def _split(a: jax.Array, chunk: int) -> jax.Array:
    """`[B, S, …]` to `[S / chunk, B, chunk, …]`."""
    return jnp.moveaxis(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]), 1, 0)


def _join(a: jax.Array) -> jax.Array:
    """Inverse of `_split`."""
    a = jnp.moveaxis(a, 0, 1)
    return a.reshape(a.shape[0], -1, *a.shape[3:])
