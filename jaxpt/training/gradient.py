"""Gradient and sums of an objective over a global batch, microbatch by microbatch."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxpt.errors import JaxptError
from jaxpt.models.batch import Batch
from jaxpt.models.params import Params, Tree
from jaxpt.objectives.objective import Inputs, Objective, Sums, Terms
from jaxpt.sharding import constrain

Trained = tuple[Params, Params]  # parameters and extra values
Placed = tuple[Tree[NamedSharding], Tree[NamedSharding]]  # where they lie
Facts = tuple[Mapping[str, jax.Array], Sums]  # Terms.named and Terms.sums
Sum = tuple[Trained, Facts]  # what adds up over microbatches


def gradient(
    objective: Objective,
    inputs: Inputs,
    trained: Trained,
    shardings: Placed,
    stop: Callable[[Params], Params] = lambda params: params,
) -> Sum:
    """Returns the gradient of all terms over the global batch, and their named values and sums.

    Args:
        objective: whose terms are taken.
        inputs: with the global batch in it, `inputs.microbatches` and without totals.
        trained: parameters and extra values.
        shardings: of `trained`, for the gradients summed over microbatches.
        stop: cuts the gradient of frozen parameters.

    Raises:
        JaxptError: a term that is no float32 scalar, or two terms of one name.
    """

    def at(trained: Trained, batch: Batch[jax.Array] | None, totals: Sums | None) -> Inputs:
        return replace(inputs, params=stop(trained[0]), extra=trained[1], batch=batch, totals=totals)

    def loss_of(trained: Trained, batch: Batch[jax.Array], totals: Sums | None) -> tuple[jax.Array, Facts]:
        loss, (named, sums) = _checked(objective, "terms", objective.terms(at(trained, batch, totals)))
        return loss, (named if "loss" in named else {"loss": loss, **named}, sums)

    totals = first_pass(objective, inputs)
    count, batch = inputs.microbatches, inputs.batch
    assert batch is not None, "the global batch"
    one = lambda piece: jax.grad(loss_of, has_aux=True)(trained, piece, totals)  # noqa: E731
    grads, (named, sums) = one(batch) if count == 1 else _summed(one, batch, count, shardings)

    def step_loss(trained: Trained) -> tuple[jax.Array, Facts]:
        terms = objective.step_terms(at(trained, None, totals))
        return _checked(objective, "step_terms", terms)

    if objective.step_terms(at(trained, None, totals)) is None:
        return grads, (named, sums)
    more, (named_once, sums_once) = jax.grad(step_loss, has_aux=True)(trained)
    for key in (*named_once.keys() & named.keys(), *sums_once.keys() & sums.keys()):
        raise JaxptError(f"objective {objective.name}: both terms and step_terms give {key!r}; rename one")
    return jax.tree.map(jnp.add, grads, more), ({**named, **named_once}, {**sums, **sums_once})


def first_pass(objective: Objective, inputs: Inputs) -> Sums | None:
    """Returns `objective.first_pass` summed over the global batch, without gradient; None where it returns None."""
    count, batch = inputs.microbatches, inputs.batch
    assert batch is not None, "the global batch"
    one = lambda piece: objective.first_pass(replace(inputs, batch=_placed(piece)))  # noqa: E731
    if count == 1:
        return jax.lax.stop_gradient(objective.first_pass(inputs))
    shapes = jax.eval_shape(one, jax.tree.map(lambda v: v[: v.shape[0] // count], batch))
    if shapes is None:
        return None
    totals = jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.lax.map(one, _split(batch, count)))
    return jax.lax.stop_gradient(totals)


def _summed(one: Callable[[Batch[jax.Array]], Sum], batch: Batch[jax.Array], count: int, shardings: Placed) -> Sum:
    """Sums gradients and facts over `count` microbatches; a microbatch takes every `count`-th row, so that each device
    keeps its own rows and every microbatch is mixed."""

    def body(carry: Sum, piece: Batch[jax.Array]) -> tuple[Sum, None]:
        grads, facts = one(_placed(piece))
        grads = jax.lax.with_sharding_constraint(grads, shardings)
        return jax.tree.map(jnp.add, carry, (grads, facts)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda v: v[: v.shape[0] // count], batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    zeros = (jax.lax.with_sharding_constraint(zeros[0], shardings), zeros[1])
    total, _ = jax.lax.scan(body, zeros, _split(batch, count))
    return total


def _split(batch: Batch[jax.Array], count: int) -> Batch[jax.Array]:
    """`[B, …]` to `[count, B / count, …]`."""
    return jax.tree.map(lambda v: jnp.swapaxes(v.reshape(-1, count, *v.shape[1:]), 0, 1), batch)


def _placed(piece: Batch[jax.Array]) -> Batch[jax.Array]:
    return jax.tree.map(lambda v: constrain(v, "batch", *[None] * (v.ndim - 1)), piece)


def _checked(objective: Objective, method: str, terms: Terms | None) -> tuple[jax.Array, Facts]:
    """Returns `(loss, (named, sums))`, once they are what the contract says."""
    if not isinstance(terms, Terms):
        raise JaxptError(f"objective {objective.name}: {method} gives a {type(terms).__name__}, it must be Terms")
    for key, value in {"its loss": terms.loss, **terms.named}.items():
        value = jnp.asarray(value)
        if value.shape or value.dtype != jnp.float32:
            raise JaxptError(
                f"objective {objective.name}: {key} of {method} is {value.dtype}{list(value.shape)}, it must be a "
                f"float32 scalar"
            )
    return terms.loss, (dict(terms.named), dict(terms.sums))
