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
) -> jax.Array:
    """Returns `x / rms(x) * (gain + offset)` in x's dtype; the statistic is float32.

    Args:
        x: `[..., N]`, any float dtype.
        gain: broadcast against the normalised dimensions.
        eps: added to the mean square.
        offset: 1 where the stored gain is the deviation from one (Gemma).
        cast_first: cast the normalised value back to x's dtype before the gain multiplies (Llama), or after (Gemma).
        axes: the dimensions normalised together; (-2, -1) for a norm across heads.
    """
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axes, keepdims=True) + eps)
    if cast_first:
        return y.astype(x.dtype) * (gain + offset).astype(x.dtype)
    return (y * (gain.astype(jnp.float32) + offset)).astype(x.dtype)
