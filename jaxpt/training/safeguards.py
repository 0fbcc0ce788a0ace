"""What watches over a step: guard, clipping, the mean of the parameters, norms now and then; and their state."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxpt.config.choice import choice_option
from jaxpt.models.params import Array, Params, Tree, branch
from jaxpt.models.specs import Specs, flatten, unflatten
from jaxpt.optim.averaging import Averaging
from jaxpt.optim.axis_groups import AxisGroups, axis_groups, group_norms
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.optim.clipping import Clipping, ClipState
from jaxpt.optim.guard import Guard
from jaxpt.training.config import RunConfig
from jaxpt.training.state import Layout, State

WATCHED = ("params", "grads", "updates")  # what has norms by axis group, in this order


@dataclass(frozen=True)
class Safeguards:
    """`watch` is the number of steps between two looks at the norms of axis groups, 0: none."""

    guard: Guard = choice_option(Guard)
    clipping: Clipping = choice_option(Clipping)
    averaging: Averaging = choice_option(Averaging)
    watch: int = 0

    @classmethod
    def of(cls, config: RunConfig) -> "Safeguards":
        """Returns those of a run."""
        return cls(config.guard, config.clipping, config.averaging, config.metrics.watch or 0)

    def first(self, specs: Specs) -> Params:
        """Returns the first `State.guard`: `{"guard": …, "clipping": …}`, those of the two that remember anything."""
        states = {"guard": self.guard.init(), "clipping": self.clipping.init(specs)}
        return {name: unflatten(flatten(tree)) for name, tree in states.items() if flatten(tree)}

    def shardings(self, layout: Layout, specs: Specs) -> tuple[Tree[NamedSharding], Tree[NamedSharding]]:
        """Returns where `State.mean` and `State.guard` lie: as the parameters, and whole on every device."""
        small = jax.eval_shape(lambda: self.first(specs))
        return layout.params if self.averaging.keeps else {}, jax.tree.map(lambda _: layout.replicated, small)

    def abstract(self, layout: Layout, specs: Specs, params: Any) -> tuple[Any, Any]:
        """Returns shapes, dtypes and shardings of `State.mean` and `State.guard`; `params` are those of the model."""
        where = layout.replicated
        small = jax.eval_shape(lambda: self.first(specs))
        small = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), small)
        return params if self.averaging.keeps else {}, small

    def begin(self, state: State[Array], layout: Layout, specs: Specs) -> tuple[State[Array], list[str]]:
        """Returns a state that has what these safeguards remember, and no more; and lines for the person watching.

        What it has of the same form is kept. A mean that begins is a copy of the parameters.
        """
        lines, mean, where = [], state.mean, self.shardings(layout, specs)
        if bool(flatten(mean)) != self.averaging.keeps:
            lines = ["the mean of the parameters is not kept any more"] if flatten(mean) else []
            copy = jax.jit(lambda p: jax.tree.map(jnp.copy, p), out_shardings=where[0])
            mean = copy(state.params) if self.averaging.keeps else {}
        wanted = jax.eval_shape(lambda: self.first(specs))
        if _shapes(state.guard) == _shapes(wanted):
            return state._replace(mean=mean), lines
        if flatten(state.guard):
            lines.append("guard and clipping start new, with an empty window: their options are others than before")
        small = jax.jit(lambda: self.first(specs), out_shardings=where[1])() if flatten(wanted) else {}
        return state._replace(mean=mean, guard=small), lines


@dataclass(frozen=True)
class Watcher:
    """Norms of axis groups for the parameters of `optimizer`."""

    optimizer: BuiltOptimizer
    every: int

    @cached_property
    def groups(self) -> AxisGroups:
        """The groups, in the order of the norms."""
        return axis_groups(self.optimizer.specs)

    def norms(self, step: jax.Array, rate: jax.Array, params: Params, grads: Params, updates: Params) -> jax.Array:
        """Returns the norms of `WATCHED` by group, float32 `[3, groups]`, once in `every` steps; else zeros.

        Args:
            step: the number of the step, from 0.
            rate: its learning rate; norms of updates are those of what the parameters move by.
            params: after the step.
            grads: as the optimizer got them.
            updates: as it made them.
        """
        multipliers = flatten(self.optimizer.lr_mult)

        def look() -> jax.Array:
            moved = rate * group_norms(updates, self.groups, multipliers)
            return jnp.stack([group_norms(params, self.groups), group_norms(grads, self.groups), moved])

        nothing = lambda: jnp.zeros((len(WATCHED), len(self.groups)), jnp.float32)  # noqa: E731
        return jax.lax.cond((step + 1) % self.every == 0, look, nothing)


def named_norms(norms: Array, specs: Specs) -> dict[str, float]:
    """Returns what `Watcher.norms` gave by the names it is logged under: `watch/params/GROUP`, …"""
    values = jax.device_get(norms)
    groups = list(axis_groups(specs))
    return {f"watch/{what}/{group}": float(v) for what, row in zip(WATCHED, values) for group, v in zip(groups, row)}


def clip_state(guard: Params) -> ClipState:
    """Returns what a clipping remembers in `State.guard`."""
    return branch(guard, "clipping") if "clipping" in guard else {}


def judge_state(guard: Params) -> Mapping[str, Array]:
    """Returns what a guard remembers in `State.guard`."""
    return flatten(branch(guard, "guard")) if "guard" in guard else {}


def _shapes(tree: Params) -> dict[str, tuple[tuple[int, ...], str]]:
    return {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in flatten(tree).items()}
