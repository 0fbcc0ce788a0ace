"""The coordinate check: do activations keep their size as a model gets wider, at first and after some steps?

One batch is trained on again and again at several widths, and mean absolute values of what the layers compute are
fitted against the width (Yang et al. 2022, arXiv 2203.03466, appendix D.1). Under µP the slopes stay near 0; under
standard parameterisation they do not, which is the check's negative control.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.decoder import logits
from jaxpt.models.layer import first_stream, last_stream, run_layer
from jaxpt.models.params import Params, branch
from jaxpt.models.specs import flatten
from jaxpt.optim.chain import BuiltOptimizer, descend
from jaxpt.optim.optimizer import Optimizer
from jaxpt.planning.widths import Wide

Sites = dict[str, jax.Array]  # an activation by the name of where it was taken
LOGITS = "logits"
ATTENTION = "attention logits"


class Limits(NamedTuple):
    """What slopes of log2(size) against log2(width) may be."""

    first: float = 0.10
    first_logits: tuple[float, float] = (-0.65, 0.10)
    later: float = 0.15
    later_logits: float = 0.25
    update: float = 0.20
    least_update: float = 1e-3
    control_logits: float = 0.40
    control_hidden: float = 0.25


class Coordinates(NamedTuple):
    """What was measured, by site: `size` is mean |x|, `moved` rms(x_t - x_0); each `[widths, seeds, steps + 1]`.

    `loss` `[widths, seeds, steps + 1]` is of the batch before each step, in nats per token.
    """

    widths: tuple[int, ...]
    size: Mapping[str, np.ndarray]
    moved: Mapping[str, np.ndarray]
    loss: np.ndarray

    @property
    def hidden(self) -> list[str]:
        """Sites within the model: all but the two kinds of logits."""
        return [site for site in self.size if site not in (LOGITS, ATTENTION)]

    def slope(self, site: str, step: int, *, moved: bool = False) -> float:
        """Slope of log2(size) against log2(width), over all seeds; NaN where a size is 0 or not finite."""
        values = (self.moved if moved else self.size)[site][:, :, step]
        if not np.all(np.isfinite(values)) or not np.all(values > 0):
            return float("nan")
        x = np.repeat(np.log2(self.widths), values.shape[1])
        return float(np.polyfit(x, np.log2(values).ravel(), 1)[0])


def activations(config: ModelConfig, params: Params, batch: Mapping[str, jax.Array], compute: Compute) -> Sites:
    """Returns what each part of the model computes of a batch, float32; sites of several layers are stacked.

    "embedding", "attention branch", "ffn branch", "stream", "final norm" have `[…, D]`, "attention logits"
    `[…, S, S]` with 0 where a query does not look, "logits" `[B, S, V]`.
    """
    segments, positions = batch["segment_ids"], batch["positions"]
    x = first_stream(config, params, batch["tokens"], compute)
    index = jnp.arange(x.shape[1])
    seen = (index <= index[:, None]) & (segments[:, None, :] == segments[:, :, None])
    found: dict[str, list[jax.Array]] = {"embedding": [x]}
    place = {"dense": 0, "moe": 0}
    for layer in config.layers:
        stack = branch(branch(params, "blocks"), layer.ffn)
        leaves = {name: jnp.asarray(a)[place[layer.ffn]] for name, a in flatten(stack).items()}
        place[layer.ffn] += 1
        shown: dict[str, jax.Array] = {}
        x = run_layer(config, layer, leaves, x, segments, positions, compute, shown.__setitem__)
        q, k = shown["queries"].astype(jnp.float32), jnp.repeat(shown["keys"], config.group, 2).astype(jnp.float32)
        scores = jnp.einsum("bshd,bthd->bhst", q, k) * config.scale
        found.setdefault(ATTENTION, []).append(jnp.where(seen[:, None], scores, 0))
        for name in ("attention_branch", "ffn_branch"):
            found.setdefault(name.replace("_", " "), []).append(shown[name])
        found.setdefault("stream", []).append(x)
    x = last_stream(config, params, x, compute)
    out = {name: jnp.stack(parts).astype(jnp.float32) for name, parts in found.items()}
    return out | {"final norm": x.astype(jnp.float32), LOGITS: logits(config, params, x, compute)}


def check_coordinates(
    models: Sequence[Wide],
    optimizer: Optimizer,
    batch: Mapping[str, np.ndarray],
    steps: int,
    seeds: Iterable[int],
    rate: float,
    compute: Compute = Compute(),  # noqa: B008
    done: Callable[[], object] = lambda: None,
) -> Coordinates:
    """Trains each model on one batch at a constant rate and returns the sizes of its activations before each step.

    Args:
        models: one architecture at several widths, in one parameterisation.
        optimizer: what moves them; its own learning rate is not read.
        batch: tokens, targets, segment ids, positions and loss weights `[B, S]`, the same at every step.
        steps: how many; sizes are taken at 0, …, steps.
        seeds: of the first parameters.
        rate: learning rate, best a large one.
        compute: dtypes; float32 shows what the rules do, without rounding.
        done: called after each model and seed.
    """
    seeds = list(seeds)
    size: dict[str, list[Any]] = {}
    moved: dict[str, list[Any]] = {}
    losses: list[Any] = []
    for wide in models:
        built = wide.optimizer(optimizer)
        step = _step(wide.model, built, compute)
        trained = [_trained(step, wide.first(seed), built, batch, steps, rate) for seed in seeds]
        done()
        losses.append([loss for _, _, loss in trained])
        for site in trained[0][0]:
            size.setdefault(site, []).append([s[site] for s, _, _ in trained])
            moved.setdefault(site, []).append([m[site] for _, m, _ in trained])
    arrays = [{site: np.asarray(rows, np.float64) for site, rows in table.items()} for table in (size, moved)]
    return Coordinates(tuple(w.width for w in models), arrays[0], arrays[1], np.asarray(losses, np.float64))


def _step(model: ModelConfig, built: BuiltOptimizer, compute: Compute) -> Any:
    """The jitted step: `(params, state, batch, rate, first sites) -> (params, state, sites, (loss, size, moved))`."""

    def loss_of(params: Params, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Sites]:
        sites = activations(model, params, batch, compute)
        nll, _ = from_logits(sites[LOGITS], batch["targets"])
        return jnp.sum(nll * batch["loss_weights"]) / jnp.sum(batch["loss_weights"]), sites

    @jax.jit
    def step(params: Params, state: Any, batch: Mapping[str, jax.Array], rate: jax.Array, first: Sites) -> Any:
        (loss, sites), grads = jax.value_and_grad(loss_of, has_aux=True)(params, batch)
        updates, state = built.update(grads, state, params)
        size = {name: jnp.mean(jnp.abs(x)) for name, x in sites.items()}
        moved = {name: jnp.sqrt(jnp.mean(jnp.square(x - first[name]))) for name, x in sites.items()}
        return descend(params, updates, rate, built.lr_mult), state, sites, (loss, size, moved)

    shapes = lambda params, batch: jax.eval_shape(loss_of, params, batch)[1]  # noqa: E731
    return step, shapes


def _trained(
    program: Any, params: Params, built: BuiltOptimizer, batch: Mapping[str, np.ndarray], steps: int, rate: float
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Sizes, distances from step 0 and losses, before each of `steps` steps and after the last."""
    (step, shapes), state = program, jax.jit(built.init)(params)
    first = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes(params, batch))
    first = step(params, state, batch, np.float32(rate), first)[2]
    out: list[Any] = []
    for _ in range(steps + 1):
        params, state, _, measured = step(params, state, batch, np.float32(rate), first)
        out.append(jax.device_get(measured))
    sites = list(out[0][1])
    size = {site: [float(s[site]) for _, s, _ in out] for site in sites}
    moved = {site: [float(m[site]) for _, _, m in out] for site in sites}
    return size, moved, [float(loss) for loss, _, _ in out]


def failures(found: Coordinates, limits: Limits = Limits()) -> list[str]:  # noqa: B008
    """Returns a line for each thing that µP promises and that is not so: none, and the check has passed."""
    last, lines = found.loss.shape[2] - 1, []

    def expect(site: str, step: int, low: float, high: float, *, moved: bool = False) -> None:
        slope, zero = found.slope(site, step, moved=moved), not np.any(found.size[site][:, :, step])
        if not low <= slope <= high and not (zero and step == 0):
            what = f"rms of the change of {site}" if moved else f"mean |x| of {site}"
            lines.append(f"step {step}: {what} goes with width^{slope:.2f}, allowed are {low:g} to {high:g}")

    for site in found.hidden:
        expect(site, 0, -limits.first, limits.first)
        for step in range(2, last + 1):
            expect(site, step, -limits.later, limits.later)
        expect(site, last, -limits.update, limits.update, moved=True)
        if not np.min(found.moved[site][:, :, last]) > limits.least_update:
            lines.append(f"step {last}: {site} has not moved (rms {np.min(found.moved[site][:, :, last]):.1e})")
    for site in (LOGITS, ATTENTION):
        expect(site, 0, *limits.first_logits)
    for step in range(4, last + 1):
        expect(LOGITS, step, -limits.later_logits, limits.later_logits)
    return lines


def control_failures(found: Coordinates, limits: Limits = Limits()) -> list[str]:  # noqa: B008
    """Returns why the check has no power: standard parameterisation, measured likewise, does not stand out."""
    late = range(min(3, found.loss.shape[2] - 1), found.loss.shape[2])
    steepest = max(found.slope(LOGITS, t) for t in late)
    hidden = max((found.slope(site, t), site) for site in found.hidden for t in late)
    lines = []
    if not steepest >= limits.control_logits:
        lines.append(f"logits go with width^{steepest:.2f} at most, a check with power shows {limits.control_logits:g}")
    if not hidden[0] >= limits.control_hidden:
        name = f"the steepest hidden site, {hidden[1]},"
        lines.append(f"{name} goes with width^{hidden[0]:.2f}, a check with power shows {limits.control_hidden:g}")
    return lines


def wider_is_worse(found: Coordinates) -> list[str]:
    """Returns a line for each width whose last loss is above the next narrower one's by two standard deviations."""
    last = found.loss[:, :, -1]
    mean, spread = last.mean(axis=1), last.std(axis=1, ddof=1) if last.shape[1] > 1 else np.zeros(len(last))
    return [
        f"width {found.widths[i + 1]} ends at {mean[i + 1]:.4f}, width {found.widths[i]} at {mean[i]:.4f}"
        for i in range(len(mean) - 1)
        if mean[i + 1] > mean[i] + 2 * max(spread[i], spread[i + 1])
    ]
