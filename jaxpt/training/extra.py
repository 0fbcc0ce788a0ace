"""The objective's own trainable things: made, laid out, updated by their groups, carried from stage to stage."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxpt.errors import JaxptError, nearest
from jaxpt.models.config import ModelConfig
from jaxpt.models.init import init_leaf, leaf_key
from jaxpt.models.params import Array, Params, T, Tree, branch
from jaxpt.models.specs import flatten, unflatten
from jaxpt.objectives.objective import ExtraSpec, Group, Objective
from jaxpt.optim.chain import BuiltOptimizer, descend, global_norm, make_optimizer
from jaxpt.optim.optimizer import Optimizer
from jaxpt.training.state import Layout, with_shardings


@dataclass(frozen=True)
class Extra:
    """What one objective trains besides the model; empty for most."""

    specs: Mapping[str, ExtraSpec]  # by path
    groups: Mapping[str, Group]
    optimizers: Mapping[str, BuiltOptimizer]

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of their optimizers' states."""
        values = sum(4 * math.prod(spec.shape) for spec in self.specs.values())
        return values + sum(optimizer.state_bytes for optimizer in self.optimizers.values())

    def values(self, seed: jax.Array) -> Params:
        """First values, each from the seed and its path alone."""
        draw = lambda path, spec: init_leaf(spec, leaf_key(seed, f"extra/{path}")) + spec.init_mean  # noqa: E731
        return unflatten({path: self._bounded(path, draw(path, spec)) for path, spec in self.specs.items()})

    def _bounded(self, path: str, value: Array) -> Array:
        bounds = self.specs[path].bounds
        return value if bounds is None else jnp.clip(value, *bounds)

    def of_group(self, flat: Mapping[str, T], group: str) -> Tree[T]:
        """The part of a tree, given by path, that belongs to `group`, as a tree."""
        return unflatten({path: flat[path] for path, spec in self.specs.items() if spec.group == group})

    def init(self, seed: jax.Array) -> Params:
        """The first `State.extra`."""
        if not self.specs:
            return {}
        values = self.values(seed)
        return {
            "values": values,
            "opt_state": {g: o.init(self.of_group(flatten(values), g)) for g, o in self.optimizers.items()},
        }

    def shardings(self, layout: Layout) -> Tree[NamedSharding]:
        """Where `State.extra` lies."""
        if not self.specs:
            return {}
        where = layout.of(unflatten(self.specs))
        return {
            "values": where,
            "opt_state": {g: o.state_shardings(self.of_group(flatten(where), g)) for g, o in self.optimizers.items()},
        }

    def abstract(self, layout: Layout) -> Tree[jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of `State.extra`."""
        return with_shardings(jax.eval_shape(self.init, jnp.uint32(0)), self.shardings(layout))

    def update(
        self, grads: Params, extra: Params, rates: Mapping[str, jax.Array]
    ) -> tuple[Params, Mapping[str, jax.Array]]:
        """Moves every group by its optimizer at its rate; returns the new `extra` and each group's gradient norm."""
        values: dict[str, Array] = {}
        states: dict[str, Params] = {}
        norms: dict[str, jax.Array] = {}
        for name, group in self.groups.items():
            g = self.of_group(flatten(grads), name)
            if group.ascent:
                g = jax.tree.map(jnp.negative, g)
            own, before = (
                self.of_group(flatten(branch(extra, "values")), name),
                branch(branch(extra, "opt_state"), name),
            )
            norms[name] = global_norm(g)
            optimizer = self.optimizers[name]
            updates, states[name] = optimizer.update(g, before, own)
            values |= flatten(descend(own, updates, rates[name], optimizer.lr_mult))
        norms = {f"grad_norm/{name}": norm for name, norm in norms.items()}
        return {"values": unflatten({p: self._bounded(p, values[p]) for p in self.specs}), "opt_state": states}, norms


def make_extra(objective: Objective, model: ModelConfig, where: str = "objective") -> Extra:
    """Returns the objective's own trainable things for `model`, with the optimizers of their groups.

    Raises:
        JaxptError: a thing that is no `ExtraSpec` or whose group is not among `groups()`, a group without an optimizer
            or without a thing.
    """
    specs, groups = dict(objective.extra_specs(model)), dict(objective.groups())
    name = f"{where}.name={objective.name}"
    for path, spec in specs.items():
        if not isinstance(spec, ExtraSpec):
            raise JaxptError(f"{name}: extra_specs()[{path!r}] is a {type(spec).__name__}, it must be an ExtraSpec")
        if spec.group not in groups:
            have = f"; groups() has {', '.join(groups) or 'none'}"
            raise JaxptError(f"{name}: {path!r} is of group {spec.group!r}{nearest(spec.group, groups) or have}")
    optimizers = {}
    for group, how in groups.items():
        if "/" in group:
            raise JaxptError(f"{name}: group {group!r} has a slash in its name")
        mine = {path: spec for path, spec in specs.items() if spec.group == group}
        if not isinstance(how, Group) or not isinstance(how.optimizer, Optimizer):
            raise JaxptError(f"{name}: group {group!r} has no optimizer; give Group(optimizer=…)")
        if not mine:
            raise JaxptError(f"{name}: nothing in extra_specs() is of group {group!r}; remove it from groups()")
        optimizers[group] = make_optimizer(how.optimizer, unflatten(mine))
    return Extra(specs, groups, optimizers)


def begin(held: Params, extra: Extra, layout: Layout, seed: int, *, fresh: bool) -> tuple[Params, list[str]]:
    """Returns the `State.extra` that a stage begins or goes on with, and lines to print about it.

    Args:
        held: that of the state so far.
        extra: what the stage's objective trains.
        layout: where it shall lie.
        seed: the run's, which decides first values.
        fresh: nothing of `held` is taken.
    """
    names = lambda tree: ", ".join(flatten(tree["values"])) if tree else "none"  # noqa: E731
    held = _whole(held, extra)
    shardings = extra.shardings(layout)
    wanted = jax.eval_shape(extra.init, jnp.uint32(0))
    if _shapes(held) == _shapes(wanted) and not fresh:
        same = jax.tree.map(lambda a, s: a.sharding == s, held, shardings)
        return held if all(jax.tree.leaves(same)) else jax.jit(lambda x: x, out_shardings=shardings)(held), []
    lines = [f"the objective's own parameters start new: {names(wanted)} (before: {names(held)})"] if held else []
    if not wanted:
        return {}, lines
    return jax.jit(extra.init, out_shardings=shardings)(jnp.uint32(seed)), lines


def _whole(held: Params, extra: Extra) -> Params:
    """`held` as it was before it was saved: with the groups whose optimizers keep no state, of which nothing is."""
    if not held:
        return held
    saved = branch(held, "opt_state") if "opt_state" in held else {}
    return {**held, "opt_state": {group: saved.get(group, {}) for group in extra.groups}}


def _shapes(tree: Params) -> dict[str, tuple[tuple[int, ...], str]]:
    return {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in flatten(tree).items()}
