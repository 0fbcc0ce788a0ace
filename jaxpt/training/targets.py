"""Targets of a global batch: the positions that a loss is taken at. A step without any is not taken."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.models.batch import Batch
from jaxpt.training.active_run import ActiveRun

SHOWN = 10  # steps without a target that are printed, all are in events.jsonl


def count_targets(local: Batch[np.ndarray], placed: Batch[jax.Array]) -> int:
    """Returns how many loss weights of a global batch are not 0.

    Of several hosts each must call it; their counts are added up on the devices, behind the step that they are at work
    on, for which the loop waits anyway.

    Args:
        local: this host's rows.
        placed: the global batch.
    """
    if jax.process_count() == 1:
        return int(np.count_nonzero(local["loss_weights"] != 0))
    return int(_count(placed["loss_weights"]))


@jax.jit
def _count(weights: jax.Array) -> jax.Array:
    return jnp.sum(weights != 0, dtype=jnp.int32)


class StepsWithoutTargets:
    """Prints the steps of a process that had no target, the first of them one by one."""

    def __init__(self) -> None:
        """None so far."""
        self._seen = 0

    def report(self, run: ActiveRun, step: int) -> None:
        """Notes that `step` was not taken."""
        run.metrics.event("no targets", step)
        self._seen += 1
        if self._seen > SHOWN:
            return
        more = "; further ones are in events.jsonl only" if self._seen == SHOWN else ""
        run.log(f"step {step}: its batch has no target (all loss weights are 0), so that it changes nothing{more}")
