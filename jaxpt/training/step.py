"""The train step: one global mean, its gradient over microbatches, one update; compiled once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.errors import JaxptError, nearest
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import hidden_and_routing
from jaxpt.models.specs import param_specs
from jaxpt.objectives import OBJECTIVES, balance
from jaxpt.optim.chain import BuiltOptimizer, descend, global_norm
from jaxpt.optim.freezing import keep_frozen, mask_gradients, stop_frozen, trainable
from jaxpt.sharding import batch_sharding, constrain
from jaxpt.training.config import ObjectiveConfig, StageConfig
from jaxpt.training.state import Layout, State, abstract_params, state_shardings

Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class StepSpec:
    """Everything a compiled step depends on; stages with equal specs share one compilation."""

    model: ModelConfig
    objective: ObjectiveConfig
    compute: Compute
    batch_size: int
    sequence_length: int
    microbatches: int
    freeze: tuple[str, ...]
    sources: int


def step_spec(model: ModelConfig, stage: StageConfig, compute: Compute, sources: int) -> StepSpec:
    """The step that `stage` needs."""
    sizes = (stage.batch_size, stage.sequence_length, stage.microbatches)
    return StepSpec(model, stage.objective, compute, *sizes, stage.freeze, sources)


def make_step(
    spec: StepSpec, optimizer: BuiltOptimizer, layout: Layout, where: str = "stage"
) -> Callable[..., tuple[State, Metrics]]:
    """Returns the jitted step: `step(state, batch, learning_rate) -> (state, metrics)`.

    The state is donated. The loss is Σ w·nll / Σ w over the global batch: microbatches add shares of that one mean, so
    their masks may differ. The batch is a dict of `[B, S]` arrays (see `jaxpt.objectives`), sharded by rows; the
    learning rate a float32 scalar, so that schedules never recompile. Metrics are replicated scalars, and per source
    `[sources]`. `where` is the stage's config key in error messages.

    Raises:
        JaxptError: an unknown objective, or rows that do not divide over microbatches and devices.
    """
    if spec.objective.name not in OBJECTIVES:
        hint = nearest(spec.objective.name, OBJECTIVES) or f"; known: {', '.join(OBJECTIVES)}"
        raise JaxptError(f"{where}.objective.name is {spec.objective.name!r}, which is no objective{hint}")
    rows = spec.batch_size // spec.microbatches
    if rows % layout.rows:
        raise JaxptError(
            f"{where}.batch_size {spec.batch_size} in {spec.microbatches} microbatches gives {rows} rows, which the "
            f"{layout.rows} devices on the mesh axes data, fsdp and expert do not divide"
        )
    objective = OBJECTIVES[spec.objective.name]
    masks = trainable(spec.model, param_specs(spec.model), spec.freeze, f"{where}.freeze")
    loss_args = (spec.objective, spec.compute, spec.sources, rows // layout.rows)

    def step(state: State, batch: Mapping[str, jax.Array], learning_rate: jax.Array) -> tuple[State, Metrics]:
        weight_sum = jnp.sum(batch["loss_weights"])
        weight_sum = jnp.where(weight_sum > 0, weight_sum, 1.0)
        totals = _routing_totals(spec, state["params"], batch)

        def loss_of(params: Any, batch: Mapping[str, jax.Array], total: jax.Array) -> tuple[jax.Array, Metrics]:
            return objective(spec.model, stop_frozen(params, masks), batch, total, *loss_args, totals)

        grads, sums = _gradient(loss_of, state["params"], batch, weight_sum, spec.microbatches, layout)
        grads = mask_gradients(grads, masks)
        norm = global_norm(grads)
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = descend(state["params"], updates, learning_rate, optimizer.lr_mult)
        params = _moved_bias(spec, params, sums)
        params = keep_frozen(params, state["params"], masks)
        metrics = {
            "train/loss": sums["nll"],
            "train/z_loss": sums["z"],
            "train/grad_norm": norm,
            "train/param_norm": global_norm(params),
            "source_nll": sums["source_nll"],
            "source_weight": sums["source_weight"],
            **_balance_metrics(sums),
        }
        return {"params": params, "opt_state": opt_state}, metrics

    shardings = state_shardings(layout, optimizer, abstract_params(spec.model))
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(layout.mesh), layout.replicated),
        out_shardings=(shardings, layout.replicated),
    )


def _balance_metrics(sums: Metrics) -> Metrics:
    return {"train/balance_loss": sums["balance"], **balance.metrics(sums["routing"])} if "routing" in sums else {}


def _moved_bias(spec: StepSpec, params: Any, sums: Metrics) -> Any:
    if "routing" not in sums:
        return params
    return balance.update_selection_bias(spec.model, params, sums["routing"]["counts"], spec.objective.bias_rate)


def _routing_totals(spec: StepSpec, params: Any, batch: Mapping[str, jax.Array]) -> Any:
    """Routing statistics of the global batch, by a forward pass of its own (None where one microbatch is the batch, or
    no loss needs them): the balance loss's gradient needs every microbatch's counts before the first of them."""
    o = spec.objective
    if spec.microbatches == 1 or spec.model.moe is None or not (o.balance or o.sequence_balance or o.router_z):
        return None
    names = ("tokens", "segment_ids", "positions")
    pieces = {k: jnp.swapaxes(batch[k].reshape(-1, spec.microbatches, *batch[k].shape[1:]), 0, 1) for k in names}

    def one(piece: Mapping[str, jax.Array]) -> Any:
        args = (constrain(piece[k], "batch", None) for k in names)
        return hidden_and_routing(spec.model, params, *args, spec.compute)[1]

    totals = jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.lax.map(one, pieces))
    return jax.lax.stop_gradient(totals)


def _gradient(
    loss_of: Callable, params: Any, batch: Mapping[str, jax.Array], weight_sum: jax.Array, count: int, layout: Layout
) -> tuple[Any, Metrics]:
    """Sums gradients and metrics over `count` microbatches; a microbatch takes every `count`-th row, so that each
    device keeps its own rows and every microbatch is mixed."""
    gradient = jax.grad(loss_of, has_aux=True)
    if count == 1:
        return gradient(params, batch, weight_sum)

    def split(a: jax.Array) -> jax.Array:
        return jnp.swapaxes(a.reshape(-1, count, *a.shape[1:]), 0, 1)

    def body(carry: Any, piece: Mapping[str, jax.Array]) -> tuple[Any, None]:
        piece = {k: constrain(v, "batch", *[None] * (v.ndim - 1)) for k, v in piece.items()}
        grads, sums = gradient(params, piece, weight_sum)
        grads = jax.lax.with_sharding_constraint(grads, layout.params)
        return jax.tree.map(jnp.add, carry, (grads, sums)), None

    shapes = jax.eval_shape(gradient, params, {k: v[: v.shape[0] // count] for k, v in batch.items()}, weight_sum)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    zeros = (jax.lax.with_sharding_constraint(zeros[0], layout.params), zeros[1])
    total, _ = jax.lax.scan(body, zeros, {k: split(v) for k, v in batch.items()})
    return total
