"""One update of a tree of parameters by an optimizer: for the model, and for each group of extra things."""

import jax

from jaxpt.models.specs import Params
from jaxpt.optim.optimizers import Optimizer, clip_by_global_norm, global_norm

__all__ = ["apply_optimizer", "global_norm"]


def apply_optimizer(
    optimizer: Optimizer,
    clip_norm: float | None,
    grads: Params,
    norm: jax.Array,
    opt_state: Params,
    params: Params,
    rate: jax.Array,
) -> tuple[Params, Params]:
    """Returns new parameters and optimizer state; `norm` is that of `grads`, `rate` a traced learning rate."""
    grads = clip_by_global_norm(grads, norm, clip_norm)
    return optimizer.update(grads, opt_state, params, rate)
