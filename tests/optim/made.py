"""Models with stacks and experts, drawn gradients, and optimizers of the tests' own: factored, by blocks, by matrix."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxpt.config.choice import option
from jaxpt.models.config import LayerSpec, ModelConfig, uniform_layers
from jaxpt.models.moe_config import MoeConfig
from jaxpt.models.specs import ParamSpec, flatten, param_specs, unflatten
from jaxpt.optim.chain import descend
from jaxpt.optim.optimizer import Optimizer, Specs

MODEL = ModelConfig(
    vocab_size=16,
    embed=8,
    heads=4,
    kv_heads=2,
    head_dim=4,
    mlp=12,
    layers=(LayerSpec(), *uniform_layers(2, ffn="moe")),
    moe=MoeConfig(4, 2, 16),
    qkv_bias=True,
)
SPECS = param_specs(MODEL)


def draw(seed, specs=SPECS, size=1.0):
    """A value for every parameter."""
    keys = jax.random.split(jax.random.key(seed), len(flatten(specs)))
    return unflatten({p: size * jax.random.normal(k, s.shape) for k, (p, s) in zip(keys, flatten(specs).items())})


def run(optimizer, params, steps=4, rate=1e-2, seed=100):
    """Parameters and state after some steps on drawn gradients."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(steps):
        updates, state = update(draw(seed + i, optimizer.specs), state, params)
        params = descend(params, updates, jnp.float32(rate), optimizer.lr_mult)
    return params, state


@dataclass(frozen=True)
class Factored(Optimizer):
    """Adafactor's second moment: a mean for each row and each column of the two largest dimensions."""

    smallest: int = option(3, "smallest second dimension that is factored")

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """optax's own."""
        return optax.scale_by_factored_rms(min_dim_size_to_factor=self.smallest)


class BlockState(NamedTuple):
    """Sums of G Gᵀ of the blocks of the first dimension, and a scalar for each parameter."""

    factors: optax.Updates
    scale: optax.Updates


@dataclass(frozen=True)
class Blocks(Optimizer):
    """A rule of Shampoo's kind: each block of rows is preconditioned by the root of its own sum of G Gᵀ."""

    block: int = option(2, "rows of a block")

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """State: `[rows / block, block, block]` and a scalar per parameter."""

        def rows(g: jax.Array) -> jax.Array:
            if g.shape[0] % self.block:
                raise ValueError(f"{g.shape[0]} rows are not made of blocks of {self.block}")
            return g.reshape(g.shape[0] // self.block, self.block, -1)

        def init(params: optax.Params) -> BlockState:
            factors = jax.tree.map(lambda p: jnp.zeros((*rows(p).shape[:2], self.block)), params)
            return BlockState(factors, jax.tree.map(lambda p: jnp.zeros(()), params))

        def one(g: jax.Array, factor: jax.Array) -> jax.Array:
            values, vectors = jnp.linalg.eigh(factor + 1e-6 * jnp.eye(self.block))
            inverse = (vectors / jnp.sqrt(values)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)
            return (inverse @ rows(g)).reshape(g.shape)

        def update(grads: optax.Updates, state: BlockState, params: optax.Params | None = None):
            squares = jax.tree.map(lambda g: rows(g) @ jnp.swapaxes(rows(g), 1, 2), grads)
            factors = jax.tree.map(jnp.add, state.factors, squares)
            scale = jax.tree.map(lambda s, g: s + jnp.sqrt(jnp.mean(g * g)), state.scale, grads)
            steps = jax.tree.map(lambda g, f, s: one(g, f) / s, grads, factors, scale)
            return steps, BlockState(factors, scale)

        return optax.GradientTransformation(init, update)


class FlatState(NamedTuple):
    """A momentum that is kept as one vector."""

    vector: optax.Updates


@dataclass(frozen=True)
class Flat(Optimizer):
    """Momentum kept as one vector, of which shapes do not say what its dimension follows."""

    said: bool = option(False, "whether `state_axes` says it")

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """State: a vector per parameter."""

        def update(grads: optax.Updates, state: FlatState, params: optax.Params | None = None):
            vector = jax.tree.map(lambda v, g: 0.9 * v + g.reshape(-1), state.vector, grads)
            return jax.tree.map(lambda v, g: v.reshape(g.shape), vector, grads), FlatState(vector)

        return optax.GradientTransformation(
            lambda params: FlatState(jax.tree.map(lambda p: jnp.zeros(p.size), params)), update
        )

    def state_axes(self, name: str, spec: ParamSpec) -> tuple[str | None, ...] | None:
        """The vector follows no axis."""
        return (None,) if self.said and name == "vector" else None


@dataclass(frozen=True)
class Mixed(Optimizer):
    """Momentum and sign for matrices, Adam for the rest: two chains that optax joins by labels."""

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """Labels from the axis table."""
        labels = jax.tree.map(lambda s: "sign" if len(s.shape) == 2 else "adam", specs)
        return optax.partition({"sign": optax.scale_by_lion(), "adam": optax.scale_by_adam()}, labels)
