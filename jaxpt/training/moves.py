"""From gradients to the next state: clipped, optimized, judged, and taken or not."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params
from jaxpt.objectives.objective import Objective, Sums
from jaxpt.optim.chain import BuiltOptimizer, descend, global_norm
from jaxpt.optim.freezing import Masks, keep_frozen, mask_gradients
from jaxpt.optim.guard import all_are_finite, where_taken
from jaxpt.training.arguments import StepArguments
from jaxpt.training.extra import Extra
from jaxpt.training.safeguards import Safeguards, Watcher, clip_state, judge_state
from jaxpt.training.state import State

Logged = dict[str, jax.Array]


@dataclass(frozen=True)
class Moves:
    """How one stage's steps move the state; `tokens` are the positions (B × S) of a step."""

    objective: Objective
    model: ModelConfig
    optimizer: BuiltOptimizer
    extra: Extra
    masks: Masks
    safeguards: Safeguards
    tokens: int

    def __call__(
        self,
        state: State[Array],
        grads: Params,
        extra_grads: Params,
        facts: tuple[Mapping[str, jax.Array], Sums],
        given: StepArguments[jax.Array, Array],
    ) -> tuple[State[Array], Logged]:
        """Returns the state after the step, which is the old one where the guard skips it, and what is logged.

        Args:
            state: before the step.
            grads: of the model's parameters.
            extra_grads: of what else the objective trains.
            facts: named values and sums of the objective over the global batch.
            given: the step's arguments.
        """
        named, sums = facts
        guards, optimizer = self.safeguards, self.optimizer
        number = jnp.asarray(given.step)
        grads = mask_gradients(grads, self.masks)
        norm = global_norm(grads)
        grads, clip = guards.clipping.gradients(grads, clip_state(state.guard), optimizer.specs)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        unclipped = updates
        updates, clip = guards.clipping.updates(updates, clip)
        params = descend(state.params, updates, given.learning_rate, optimizer.lr_mult)
        params = self.objective.after_update(self.model, params, sums)
        params = keep_frozen(params, state.params, self.masks)
        new_extra, norms = self.extra.update(extra_grads, state.extra, given.rates) if self.extra.specs else ({}, {})
        mean = state.mean
        if guards.averaging.keeps:
            mean = guards.averaging.update(mean, params, optimizer.specs, number)
        new: State[Array] = State(params, opt_state, new_extra, mean, {"clipping": clip} if clip else {})
        new, seen = self._judged(state, new, jnp.stack([named["loss"], norm, self._norm(unclipped)]), number)
        if guards.watch:
            watcher = Watcher(optimizer, guards.watch)
            seen["watch"] = watcher.norms(number, given.learning_rate, new.params, grads, updates)
        norms = {"grad_norm": norm, "param_norm": global_norm(new.params), **norms}
        return new, {**{f"train/{name}": value for name, value in {**named, **norms}.items()}, **seen}

    def _norm(self, updates: Params) -> jax.Array:
        """Norm of the updates of what is trained; without a guard nobody asks, and nothing of it is computed."""
        return global_norm(mask_gradients(updates, self.masks)) if self.safeguards.guard.judges else jnp.float32(0)

    def _judged(
        self, old: State[Array], new: State[Array], measures: jax.Array, step: jax.Array
    ) -> tuple[State[Array], Logged]:
        """What counts of the step: `new` or `old`, with the guard's own state, which goes on in any case."""
        guard = self.safeguards.guard
        if not guard.judges:
            return new, {}
        whole = all_are_finite(*new)
        said = guard.judge(judge_state(old.guard), measures, whole, step, self.tokens)
        if guard.skips_not_finite or guard.skips_outliers:
            before = old._replace(guard={"clipping": clip_state(old.guard)} if new.guard else {})
            new = where_taken(said.taken, new, before)
        metrics = {f"guard/{name}": value for name, value in said.metrics.items()}
        return new._replace(guard={**new.guard, "guard": dict(said.state)}), {**metrics, **said.flags}
