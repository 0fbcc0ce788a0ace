"""One update of a tree of parameters by an optimizer: for the model, and for each group of extra things."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxpt.optim.optimizers import Optimizer, clip_by_global_norm, global_norm

__all__ = ["apply_optimizer", "global_norm"]

Tree = Mapping[str, Any]


def apply_optimizer(
    optimizer: Optimizer,
    clip_norm: float | None,
    grads: Tree,
    norm: jax.Array,
    opt_state: Tree,
    params: Tree,
    rate: jax.Array,
) -> tuple[Tree, Tree]:
    """Returns new parameters and optimizer state; `norm` is that of `grads`, `rate` a traced learning rate."""
    grads = clip_by_global_norm(grads, norm, clip_norm)
    return optimizer.update(grads, opt_state, params, rate)
