"""Optimizers as two pure functions over named trees: moments are nested dicts of the parameters' own structure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.errors import JaxptError, nearest
from jaxpt.models.specs import map_specs
from jaxpt.training.config import OptimizerConfig

Tree = dict[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """`init(params) -> state`; `update(grads, state, params, learning_rate) -> (new params, new state)`.

    The state is a dict of trees shaped like the parameters plus scalars, so that transforms, shardings and checkpoints
    treat moments as they treat parameters. `moments` names those trees.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, jax.Array], tuple[Tree, Tree]]
    moments: tuple[str, ...]


def adamw(config: OptimizerConfig, specs: Mapping[str, Any]) -> Optimizer:
    """AdamW with decay times learning rate (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2); all in float32.

    Weight decay applies where the axis table says so (`ParamSpec.decay`).
    """
    b1, b2 = config.beta1, config.beta2
    decay = map_specs(lambda path, spec: config.weight_decay if spec.decay else 0.0, specs)

    def init(params: Tree) -> Tree:
        zeros = lambda: jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)  # noqa: E731
        return {"count": jnp.zeros((), jnp.int32), "mu": zeros(), "nu": zeros()}

    def update(grads: Tree, state: Tree, params: Tree, learning_rate: jax.Array) -> tuple[Tree, Tree]:
        count = state["count"] + 1
        t = count.astype(jnp.float32)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["mu"], grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state["nu"], grads)
        c1, c2 = 1 - b1**t, 1 - b2**t

        def step(p: jax.Array, m: jax.Array, v: jax.Array, wd: float) -> jax.Array:
            return p - learning_rate * (m / c1 / (jnp.sqrt(v / c2) + config.eps) + wd * p)

        return jax.tree.map(step, params, mu, nu, decay), {"count": count, "mu": mu, "nu": nu}

    return Optimizer(init, update, ("mu", "nu"))


OPTIMIZERS: dict[str, Callable[[OptimizerConfig, Mapping[str, Any]], Optimizer]] = {"adamw": adamw}


def make_optimizer(config: OptimizerConfig, specs: Mapping[str, Any]) -> Optimizer:
    """Returns the optimizer that `config.name` names.

    Raises:
        JaxptError: an unknown name.
    """
    if config.name not in OPTIMIZERS:
        hint = nearest(config.name, OPTIMIZERS) or f"; known: {', '.join(OPTIMIZERS)}"
        raise JaxptError(f"config.optimizer.name is {config.name!r}, which is no optimizer{hint}")
    return OPTIMIZERS[config.name](config, specs)


def global_norm(tree: Tree) -> jax.Array:
    """Euclidean norm over all entries of a tree, float32 scalar."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def clip_by_global_norm(grads: Tree, norm: jax.Array, limit: float | None) -> Tree:
    """Scales `grads`, whose norm is `norm`, down to `limit` where it is above (Pascanu et al., arXiv 1211.5063)."""
    if limit is None:
        return grads
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * scale, grads)
