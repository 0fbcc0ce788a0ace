"""The constraint of mask training: sparsity per axis or of a budget, and the Lagrangian that holds it to its target.

L = Σ over constraints of the mean over rows of λ₁ (s - t) + λ₂ (s - t)², where s is the expected sparsity of a row and
t its target; gates descend, λ ascend (Xia et al. 2023, arXiv 2310.06694, equations 2 and 3, as in their code).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxpt.models import ModelConfig
from jaxpt.models.masks import Gates
from jaxpt.reshape.budget import Budget
from jaxpt.reshape.target import lengths_of

BUDGET = "budget"  # the name of the one constraint of a budget


def sparsities(config: ModelConfig, keep: Gates, budget: Budget | None) -> dict[str, jax.Array]:
    """Returns the expected sparsity of each row, by constraint: `[rows]` by axis, or `[1]` of a budget.

    Query heads have a row for each kv head, neurons of experts one for each expert.
    """
    if budget is not None:
        whole = budget.of(config)
        return {BUDGET: 1 - (budget.expected(config, keep) / whole).reshape(1)}
    out = {}
    for axis, each in keep.items():
        rows = each.reshape(-1, config.group if axis == "heads" else each.shape[-1])
        out[axis] = 1 - jnp.mean(rows, axis=-1)
    return out


def targets(
    config: ModelConfig, axes: tuple[str, ...], want: Mapping[str, int], budget: Budget | None
) -> dict[str, float]:
    """Returns the sparsity that each constraint is to reach."""
    if budget is not None:
        return {BUDGET: 1 - budget.limit / budget.of(config)}
    have = lengths_of(config)
    group = want["heads"] // want["kv_heads"]
    return {axis: 1 - group / config.group if axis == "heads" else 1 - want[axis] / have[axis] for axis in axes}


def lagrangian(sparsity: jax.Array, target: jax.Array, multipliers: jax.Array) -> jax.Array:
    """Returns one constraint's term, zero where every row's `sparsity [rows]` is the target; `multipliers [2]`."""
    off = sparsity - target
    return jnp.mean(multipliers[0] * off + multipliers[1] * jnp.square(off))
