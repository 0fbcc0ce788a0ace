"""RMSNorm (Zhang & Sennrich 2019, eq. 4) with the two orders of gain and cast found in released models."""

import jax
import jax.numpy as jnp


def rms_norm(
    x: jax.Array,
    gain: jax.Array,
    eps: float | jax.Array,
    *,
    offset: int = 0,
    cast_first: bool = True,
    axes: tuple[int, ...] = (-1,),
    width: jax.Array | None = None,
) -> jax.Array:
    """Returns `x / rms(x) * (gain + offset)` in x's dtype; the statistic is float32.

    Args:
        x: `[..., N]`, any float dtype.
        gain: broadcast against the normalised dimensions.
        eps: added to the mean square.
        offset: 1 where the stored gain is the deviation from one (Gemma).
        cast_first: cast the normalised value back to x's dtype before the gain multiplies (Llama), or after (Gemma).
        axes: the dimensions normalised together; (-2, -1) for a norm across heads.
        width: how many of the N positions count where a mask has made the others zero; None: all.
    """
    y = x.astype(jnp.float32)
    square = jnp.square(y)
    mean = jnp.mean(square, axes, keepdims=True) if width is None else jnp.sum(square, axes, keepdims=True) / width
    y = y * jax.lax.rsqrt(mean + eps)
    if cast_first:
        return y.astype(x.dtype) * (gain + offset).astype(x.dtype)
    return (y * (gain.astype(jnp.float32) + offset)).astype(x.dtype)
