"""Tensors in 8 bits: one power of two scales a tensor so that its largest value just fits.

Micikevicius et al. 2022 (FP8 Formats for Deep Learning, arXiv 2209.05433): e4m3 for weights and activations, e5m2 for
gradients, which spread wider. The scale is that of the tensor at hand ("current scaling"): there is no history of
largest values, so nothing is added to a checkpoint. A power of two loses at most one of the 17 or 32 binades, and
dividing by it rounds nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

VALUES = jnp.float8_e4m3fn  # of weights and activations: 3 bits of mantissa, to 448 = 1.75 * 2^8
GRADIENTS = jnp.float8_e5m2  # 2 bits of mantissa, to 57,344 = 1.75 * 2^15
_TOP = {jnp.dtype(VALUES): 8, jnp.dtype(GRADIENTS): 15}  # exponent of the largest value, whose mantissa is 1.75
_MANTISSA_BITS, _BIAS, _THREE_QUARTERS = 23, 127, 0x600000  # of float32, and the fraction of 1.75 in its mantissa


class Quantised(NamedTuple):
    """A tensor as `values * scale`: `values` in 8 bits, `scale` a float32 power of two."""

    values: jax.Array
    scale: jax.Array


def quantise(x: jax.Array, dtype: DTypeLike) -> Quantised:
    """Returns `x` in `dtype` (`VALUES` or `GRADIENTS`), its largest magnitude within the upper half of the range.

    A value is off by at most 2^-4 (`GRADIENTS`: 2^-3) of itself or 2^-17 (2^-31) of the largest, whichever is more.
    What is not finite stays so, as not a number or infinity.
    """
    bits = jax.lax.bitcast_convert_type(jnp.max(jnp.abs(x)).astype(jnp.float32), jnp.int32)
    above = (bits & ((1 << _MANTISSA_BITS) - 1)) > _THREE_QUARTERS
    power = _TOP[jnp.dtype(dtype)] - ((bits >> _MANTISSA_BITS) - _BIAS) - above
    power = jnp.clip(power, -126, 126)  # that it and its reciprocal are normal numbers
    return Quantised((x * _power_of_two(power).astype(x.dtype)).astype(dtype), _power_of_two(-power))


def product_scale(a: Quantised, b: Quantised) -> jax.Array:
    """Returns what the product of the values is multiplied by, float32 and finite."""
    return jnp.minimum(a.scale * b.scale, 2.0**127)


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """2^exponent in float32, exactly: `exp2` is not, on every platform."""
    return jax.lax.bitcast_convert_type(((exponent + _BIAS) << _MANTISSA_BITS).astype(jnp.int32), jnp.float32)
