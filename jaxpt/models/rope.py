"""Rotary position embedding in the half-split form, with the published ways of stretching it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    """Returns the rotation speed of each pair, `[h/2]` float32 in radians per position, and the factor on cos and sin.

    Formulas: default, Su et al. 2021 (eq. 15); linear, Chen et al. 2023 (position interpolation); llama3, the
    wavelength bands of the Llama 3.1 release; yarn, Peng et al. 2023 (NTK-by-parts, section 3.2, with the attention
    factor `0.1 ln s + 1` of section 3.4). The factor is 1 except for yarn.
    """
    if rope.inv_freq is not None:
        base = np.asarray(rope.inv_freq, np.float32)
        return base, _yarn_attention(rope) if rope.kind == "yarn" else 1.0
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    base = (1.0 / np.power(np.float32(rope.theta), exponent)).astype(np.float32)
    if rope.kind == "linear":
        return base / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, base), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, base, head_dim), _yarn_attention(rope)
    return base, 1.0


def _llama3(rope: RopeConfig, base: np.ndarray) -> np.ndarray:
    wavelength = 2 * np.pi / base
    old = rope.original_max_positions
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (old / wavelength - low) / (high - low)
    blended = (1 - smooth) * base / rope.factor + smooth * base
    out = np.where(wavelength > old / low, base / rope.factor, base)
    middle = (wavelength <= old / low) & (wavelength >= old / high)
    return np.where(middle, blended, out).astype(np.float32)


def _yarn(rope: RopeConfig, base: np.ndarray, head_dim: int) -> np.ndarray:
    def pair_with(rotations: float) -> float:
        turns = rope.original_max_positions / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    return (base / rope.factor * ramp + base * (1 - ramp)).astype(np.float32)


def _yarn_attention(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 1.0 if rope.factor <= 1 else 0.1 * math.log(rope.factor) + 1.0


def cos_sin(rope: RopeConfig, head_dim: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns cos and sin of every angle, each `[B, S, 1, h/2]` float32, for int32 `positions [B, S]`."""
    speed, factor = inverse_frequencies(rope, head_dim)
    angle = positions[:, :, None, None].astype(jnp.float32) * jnp.asarray(speed)
    return jnp.cos(angle) * factor, jnp.sin(angle) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (i, i + h/2) of `x [B, S, N, h]`, in float32, and returns them in x's dtype."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
