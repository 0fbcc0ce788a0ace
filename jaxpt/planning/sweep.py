"""A sweep of width × learning rate: where is the best rate of each width, and does it stay?

Each run has a full decay over its own horizon (10 % linear warmup, then a line to 0). A run that diverges counts as
infinite and is not left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models.compute import Compute
from jaxpt.models.forward import forward
from jaxpt.models.params import Params
from jaxpt.optim.chain import descend
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.optim.schedules.linear import Linear
from jaxpt.planning.widths import Wide

BatchOf = Callable[[int], Mapping[str, np.ndarray]]  # step -> tokens, targets, segment_ids, positions, loss_weights


class Best(NamedTuple):
    """The best learning rate of one width: `log2` from a parabola through the three points around the lowest loss.

    `at_edge`: the lowest loss was that of the smallest or largest rate, so that the best may lie beyond.
    """

    log2: float
    loss: float
    at_edge: bool


class Sweep(NamedTuple):
    """Mean training loss of each run's last tenth, nats per token, `[widths, rates, seeds]`; inf where it diverged."""

    widths: tuple[int, ...]
    rates: tuple[float, ...]
    loss: np.ndarray

    def best(self) -> list[Best]:
        """Returns each width's best rate, from means over seeds."""
        return [best_of(np.log2(self.rates), row) for row in self.loss.mean(axis=2)]

    @property
    def spread(self) -> float:
        """Octaves between the smallest and the largest best rate."""
        places = [best.log2 for best in self.best()]
        return max(places) - min(places)

    def transferred(self) -> list[float]:
        """Returns by how many nats each width is above its own lowest loss at the narrowest width's best rate."""
        mean = self.loss.mean(axis=2)
        at = int(np.argmin(mean[0]))
        return [float(row[at] - row.min()) for row in mean]


def sweep(
    models: Sequence[Wide],
    optimizer: Optimizer,
    batch: BatchOf,
    steps: int,
    rates: Sequence[float],
    seeds: Sequence[int],
    compute: Compute = Compute(),  # noqa: B008
    done: Callable[[], object] = lambda: None,
) -> Sweep:
    """Trains each model at each rate.

    Args:
        models: one architecture at several widths, in one parameterisation.
        optimizer: what moves them; its own learning rate is not read.
        batch: the rows of each step, the same for all runs.
        steps: of each run.
        rates: peak learning rates.
        seeds: of the first parameters.
        compute: dtypes and the like.
        done: called after each run.
    """
    schedule = resolve(Linear(warmup="10%", end=0.0), steps, 1)
    shape = [learning_rate(schedule, t, 1.0) for t in range(steps)]
    losses = np.empty((len(models), len(rates), len(seeds)))
    for i, wide in enumerate(models):
        step, init = _step(wide, optimizer, compute)
        for k, seed in enumerate(seeds):
            first = wide.first(seed)
            for j, rate in enumerate(rates):
                params, state = first, init(first)
                seen = []
                for t in range(steps):
                    params, state, loss = step(params, state, batch(t), np.float32(rate * shape[t]))
                    seen.append(loss)
                last = float(np.mean([float(x) for x in seen[-max(1, steps // 10) :]]))
                losses[i, j, k] = last if np.isfinite(last) else np.inf
                done()
    return Sweep(tuple(w.width for w in models), tuple(rates), losses)


def _step(wide: Wide, optimizer: Optimizer, compute: Compute) -> tuple[Any, Any]:
    built = wide.optimizer(optimizer)

    def loss_of(params: Params, b: Mapping[str, jax.Array]) -> jax.Array:
        out = forward(wide.model, params, b["tokens"], b["segment_ids"], b["positions"], compute)
        nll, _ = from_logits(out, b["targets"])
        return jnp.sum(nll * b["loss_weights"]) / jnp.maximum(jnp.sum(b["loss_weights"]), 1.0)

    @jax.jit
    def step(params: Params, state: Any, b: Mapping[str, jax.Array], rate: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, b)
        updates, state = built.update(grads, state, params)
        return descend(params, updates, rate, built.lr_mult), state, loss

    return step, jax.jit(built.init)


def best_of(log_rates: np.ndarray, losses: np.ndarray) -> Best:
    """Returns the best of ascending rates (as log2) by the loss at each; where the least is infinite, all are."""
    at = int(np.argmin(losses))
    edge = at in (0, len(losses) - 1)
    around = slice(at - 1, at + 2)
    if edge or not np.all(np.isfinite(losses[around])):
        return Best(float(log_rates[at]), float(losses[at]), edge)
    a, b, c = np.polyfit(log_rates[around], losses[around], 2)
    place = -b / (2 * a) if a > 0 else log_rates[at]
    return Best(float(place), float(a * place**2 + b * place + c), False)
