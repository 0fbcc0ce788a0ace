"""Batches on their way to the step: placed on the mesh, their targets counted; on several hosts one batch ahead."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpt.models.batch import Batch
from jaxpt.sharding import batch_sharding
from jaxpt.training.batches import place
from jaxpt.training.run_plan import RunPlan

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class ReadyBatch:
    """A global batch on the devices, for `step`, and how many targets it has, which may not be counted to the end."""

    step: int
    batch: Batch[jax.Array]
    targets: jax.Array | int


def ready(batches: Iterator[tuple[int, Batch[np.ndarray]]], plan: RunPlan, mesh: Mesh) -> Iterator[ReadyBatch]:
    """Yields what a feed gives as the step takes it.

    Of several hosts the devices count a batch's targets, so that all know of all. A device works in the order in which
    it is asked: what is asked for after a step is known only after it. Each batch is therefore placed and counted
    before the step on the one before it is dispatched, and the host, which must know the count, waits for no step.
    """
    sharding = batch_sharding(mesh)

    def prepare(given: tuple[int, Batch[np.ndarray]]) -> ReadyBatch:
        step, batch = given
        placed = place(batch, sharding, plan.stages[plan.stage_of(step)].config.batch_size)
        return ReadyBatch(step, placed, count_targets(batch, placed))

    return map(prepare, batches) if jax.process_count() == 1 else one_ahead(batches, prepare)


def one_ahead(items: Iterator[T], prepare: Callable[[T], U]) -> Iterator[U]:
    """Yields what `prepare` makes of each item, once it has been called for the next one."""
    for item in items:
        prepared = prepare(item)
        break
    else:
        return
    for item in items:
        following = prepare(item)
        yield prepared
        prepared = following
    yield prepared


def count_targets(local: Batch[np.ndarray], placed: Batch[jax.Array]) -> jax.Array | int:
    """Returns how many loss weights of a global batch are not 0.

    Of several hosts each must call it; their counts are added up on the devices, behind what those are at work on.

    Args:
        local: this host's rows.
        placed: the global batch.
    """
    if jax.process_count() == 1:
        return int(np.count_nonzero(local["loss_weights"] != 0))
    return _count(placed["loss_weights"])


@jax.jit
def _count(weights: jax.Array) -> jax.Array:
    return jnp.sum(weights != 0, dtype=jnp.int32)
