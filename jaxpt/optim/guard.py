"""What every guard is: whether a step counts, judged from its loss, its gradient and its update, on the devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.config.choice import Choice, option
from jaxpt.errors import JaxptError
from jaxpt.models.params import Array, T

MEASURES = ("loss", "grad_norm", "update_norm")  # what a step is judged by, in this order
SCORED = 10_000  # newest steps of which the spike score counts spikes
REMEMBERED = 64  # newest spikes whose steps are kept
FLOOR = 1e-6  # least deviation: a constant is no history
CARRY = 30  # bits of the lower part of a number of tokens


class GuardVerdict(NamedTuple):
    """What a guard says of a step: whether it is `taken`, its next state, and values to report.

    `metrics` are logged; `flags` are for the loop: `skipped`, `finite` (bool), `in_a_row` (int32: steps that were not
    finite, up to this one without a break) and `spiked_at` (int32 `[REMEMBERED]`, the newest spikes' steps).
    """

    taken: jax.Array
    state: Mapping[str, jax.Array]
    metrics: Mapping[str, jax.Array]
    flags: Mapping[str, jax.Array]


@dataclass(frozen=True)
class Guard(Choice, kind="guard", room="jaxpt.optim.guards", default="none"):
    """Whether a step counts; a step that is skipped leaves the whole state as it was, and its rows are consumed."""

    judges: ClassVar[bool] = False  # steps are looked at, and what was seen is part of the state
    skips_not_finite: ClassVar[bool] = False
    skips_outliers: ClassVar[bool] = False

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range; `where` is the section's key."""

    def init(self) -> dict[str, jax.Array]:
        """Returns the first state, {} where nothing is judged."""
        return {}

    def judge(
        self, state: Mapping[str, Array], measures: jax.Array, whole: jax.Array, step: jax.Array, tokens: int
    ) -> GuardVerdict:
        """Judges one step, without waiting for it.

        Args:
            state: as `init` or the step before returned it.
            measures: float32 `[3]`, by `MEASURES`.
            whole: bool: nothing in the state that would follow is NaN or infinite.
            step: the number of the step, from 0.
            tokens: positions (B × S) of its batch.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Judging(Guard):
    """Compares each step with the `window` steps before it, as OLMo-core's SkipStepOptimizer does.

    A step is an outlier where its loss, gradient norm or update norm is more than `sigma` standard deviations
    (Bessel's) above the mean of the window, which does not hold the step itself; nothing is one until the window is
    half full. A value enters the window also where it is an outlier, but never where it is not finite.
    """

    window: int = option(128, "steps that a step is compared with")
    sigma: float = option(6.0, "standard deviations above their mean that make a step an outlier")

    judges: ClassVar[bool] = True

    def check(self, where: str) -> None:
        """As `Guard.check`."""
        if self.window < 4:
            raise JaxptError(f"{where}.window is {self.window}, it must be at least 4")
        if not self.sigma > 0:
            raise JaxptError(f"{where}.sigma is {self.sigma}, it must be above 0")

    def init(self) -> dict[str, jax.Array]:
        """As `Guard.init`: the window, and what was seen so far."""
        zero = jnp.zeros((), jnp.int32)
        return {
            "values": jnp.zeros((len(MEASURES), self.window), jnp.float32),
            "entries": zero,
            "judged": zero,
            "spikes": jnp.zeros(SCORED, jnp.uint8),
            "spiked_at": jnp.full(REMEMBERED, -1, jnp.int32),
            "in_a_row": zero,
            "not_finite": zero,
            "skipped": zero,
            "skipped_tokens": jnp.zeros(2, jnp.int32),
        }

    def judge(
        self, state: Mapping[str, Array], measures: jax.Array, whole: jax.Array, step: jax.Array, tokens: int
    ) -> GuardVerdict:
        """As `Guard.judge`."""
        s = {name: jnp.asarray(value) for name, value in state.items()}
        finite = jnp.all(jnp.isfinite(measures)) & whole
        outlier = jnp.any(outliers(s["values"], s["entries"], measures, self.sigma))
        spike = outlier | ~finite
        skipped = (~finite & self.skips_not_finite) | (outlier & self.skips_outliers)
        newest = jnp.roll(s["spiked_at"], 1).at[0].set(step.astype(jnp.int32))
        after = {
            "values": entered(s["values"], s["entries"], measures, finite),
            "entries": s["entries"] + finite,
            "judged": s["judged"] + 1,
            "spikes": s["spikes"].at[s["judged"] % SCORED].set(spike.astype(jnp.uint8)),
            "spiked_at": jnp.where(spike, newest, s["spiked_at"]),
            "in_a_row": jnp.where(finite, 0, s["in_a_row"] + 1),
            "not_finite": s["not_finite"] + ~finite,
            "skipped": s["skipped"] + skipped,
            "skipped_tokens": _added(s["skipped_tokens"], jnp.where(skipped, tokens, 0)),
        }
        score = jnp.sum(after["spikes"], dtype=jnp.int32) / jnp.minimum(after["judged"], SCORED)
        metrics = {
            "skipped": after["skipped"],
            "not_finite": after["not_finite"],
            "spike_score": score.astype(jnp.float32),
            "update_norm": measures[MEASURES.index("update_norm")],
        }
        flags = {"skipped": skipped, "finite": finite, "in_a_row": after["in_a_row"], "spiked_at": after["spiked_at"]}
        return GuardVerdict(~skipped, after, metrics, flags)


@dataclass(frozen=True)
class Protecting(Judging):
    """Skips every step after which the state would not be finite, whatever the optimizer."""

    patience: int = option(100, "so many steps in a row that are not finite stop the run")

    skips_not_finite: ClassVar[bool] = True

    def check(self, where: str) -> None:
        """As `Guard.check`."""
        super().check(where)
        if self.patience < 1:
            raise JaxptError(f"{where}.patience is {self.patience}, it must be at least 1")


def outliers(values: jax.Array, entries: jax.Array, new: jax.Array, sigma: float) -> jax.Array:
    """Returns bool `[n]`: which of `new` `[n]` are more than `sigma` deviations above the mean of their window.

    Args:
        values: float32 `[n, window]`, a ring that is filled from 0 on.
        entries: int32, how many values have entered it; none is an outlier before it is half full.
        new: float32 `[n]`.
        sigma: the limit.
    """
    mean, deviation, count = moments_of(values, entries)
    return (count >= values.shape[1] // 2) & (new - mean > sigma * deviation)


def moments_of(values: jax.Array, entries: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns mean `[n]`, Bessel's deviation `[n]` (at least `FLOOR`) and the number of values in a window."""
    window = values.shape[1]
    count = jnp.minimum(entries, window)
    there = jnp.arange(window) < count
    mean = jnp.sum(jnp.where(there, values, 0.0), axis=1) / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(there, jnp.square(values - mean[:, None]), 0.0), axis=1)
    return mean, jnp.maximum(jnp.sqrt(squares / jnp.maximum(count - 1, 1)), FLOOR), count


def entered(values: jax.Array, entries: jax.Array, new: jax.Array, wanted: jax.Array) -> jax.Array:
    """Returns the window with `new` `[n]` in the place of its oldest values, where `wanted`."""
    place = entries % values.shape[1]
    return values.at[:, place].set(jnp.where(wanted, new, values[:, place]))


def where_taken(taken: jax.Array, new: T, old: T) -> T:
    """Returns the tree `new` where `taken`, else `old`: selected, since 0 times NaN is NaN."""
    return jax.tree.map(lambda n, o: jnp.where(taken, n, o), new, old)


def all_are_finite(*trees: object) -> jax.Array:
    """Returns bool: whether no entry of any array is NaN or infinite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(trees)]))


def token_count(parts: Array) -> int:
    """Returns the number of tokens that `skipped_tokens` holds in two parts, as int32 ends at 2 billion."""
    low, high = (int(x) for x in jax.device_get(parts))
    return (high << CARRY) + low


def _added(parts: jax.Array, tokens: jax.Array) -> jax.Array:
    low = parts[0] + tokens.astype(jnp.int32)
    return jnp.stack([low & ((1 << CARRY) - 1), parts[1] + (low >> CARRY)])
