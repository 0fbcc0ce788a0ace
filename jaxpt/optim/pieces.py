"""An optimizer's rule over stacks: applied to each layer and each expert of each parameter as if it were alone.

optax's transformations work on trees of arrays, in which a stack of matrices is one array of three dimensions; a rule
that factors or multiplies matrices would take `layers` for one of theirs. So the rule is applied to one parameter at a
time and mapped (`jax.vmap`) over its stacked dimensions. For a rule that works entry by entry this changes nothing in
the compiled program.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxpt.errors import JaxptError
from jaxpt.models.params import Array, Params, T, Tree
from jaxpt.models.specs import ParamSpec, Specs, flatten, unflatten
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.state_axes import Axes, StateSpec, infer_axes
from jaxpt.optim.state_names import Slot, name_states

NamedState = Params  # {state name: tree by parameter path, or one array for all of them}
StateSpecs = dict[str, StateSpec | Tree[StateSpec]]  # the same, of StateSpec
NONE: Mapping[str, float] = {}
OwnAndShared = tuple[list[Array], list[Array]]  # a parameter's own arrays, and those that all parameters share


@dataclass(frozen=True)
class _Rule:
    """The rule for one parameter: `core` is for a tree that holds one piece of it, at its path."""

    path: str
    spec: ParamSpec
    core: optax.GradientTransformation
    abstract: optax.OptState  # the state of a piece, of ShapeDtypeStruct
    slots: tuple[Slot, ...] = ()

    def init(self, param: Array) -> OwnAndShared:
        """The first state; the parameter's own arrays are stacked as it is."""

        def one(piece: Array) -> OwnAndShared:
            return self._split(jax.tree.leaves(self.core.init(_tree(self.path, piece))))

        for _ in self.spec.pieces:
            one = jax.vmap(one, out_axes=(0, None))
        return one(param)

    def update(
        self, grad: Array, own: list[Array], shared: list[Array], param: Array
    ) -> tuple[jax.Array, list[Array], list[Array]]:
        """The direction of a step and the new state."""
        one = self._update_piece
        for _ in self.spec.pieces:
            one = jax.vmap(one, in_axes=(0, 0, None, 0), out_axes=(0, 0, None))
        return one(grad, own, shared, param)

    def _update_piece(
        self, grad: Array, own: list[Array], shared: list[Array], param: Array
    ) -> tuple[jax.Array, list[Array], list[Array]]:
        rest, all_ = iter(own), iter(shared)
        leaves = [next(rest) if slot.own else next(all_) for slot in self.slots]
        structure = jax.tree.structure(self.abstract)
        state = jax.tree.unflatten(structure, leaves)
        updates, new = self.core.update(_tree(self.path, grad), state, _tree(self.path, param))
        after: object = jax.tree.structure(new)
        if after != structure:
            raise JaxptError(f"the state of {self.path} has another structure after an update")
        (update,) = jax.tree.leaves(updates)
        return update.astype(jnp.float32), *self._split(jax.tree.leaves(new))

    def _split(self, leaves: list[Array]) -> OwnAndShared:
        kept: list[Array] = [jnp.asarray(x).astype(a.dtype) for x, a in zip(leaves, jax.tree.leaves(self.abstract))]
        own = [x for x, slot in zip(kept, self.slots) if slot.own]
        return own, [x for x, slot in zip(kept, self.slots) if not slot.own]

    def names(self, *, own: bool) -> list[str]:
        """Names of its own arrays, or of the shared ones, in the order in which `update` takes them."""
        return [slot.name for slot in self.slots if slot.own == own]

    def check(self, where: str) -> None:
        """Raises a JaxptError where what all parameters share depends on one of them, or a shape changes."""
        piece = jax.ShapeDtypeStruct((1, *_shape(self.spec)), jnp.float32)
        arrays = jax.tree.leaves(self.abstract)
        own = [jax.ShapeDtypeStruct((1, *a.shape), a.dtype) for a, s in zip(arrays, self.slots) if s.own]
        shared = [a for a, s in zip(arrays, self.slots) if not s.own]
        mapped = jax.vmap(self._update_piece, in_axes=(0, 0, None, 0), out_axes=(0, 0, None))
        try:
            after = jax.eval_shape(mapped, piece, own, shared, piece)
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            raise JaxptError(
                f"{where}: {', '.join(self.names(own=False))}: a state that is one for all parameters depends on a "
                f"gradient; hold one for each, in a tree of the parameters' form"
            ) from None
        shapes = [a.shape for a in jax.tree.leaves(after)]
        if shapes != [a.shape for a in jax.tree.leaves((piece, own, shared))]:
            raise JaxptError(f"{where}: an update changes the shape of {self.path} or of its state")


def by_piece(
    config: Optimizer, specs: Specs, eps: Mapping[str, float] = NONE
) -> tuple[optax.GradientTransformation, StateSpecs]:
    """Returns the core of `config` over all parameters, as a transformation with a named state, and that state's specs.

    Args:
        config: the optimizer.
        specs: the axis table, or any tree of `ParamSpec`.
        eps: what the optimizer's ε is multiplied by, for those paths where that is not 1.

    Raises:
        JaxptError: a state without a name, or whose axes cannot be inferred, or that depends on other parameters.
    """
    where = f"optimizer {config.name}"
    flat = flatten(specs)
    rules = {path: _rule(config.with_eps(eps.get(path, 1.0)), path, spec) for path, spec in flat.items()}
    slots = name_states({path: jax.tree.structure(rule.abstract) for path, rule in rules.items()}, where)
    rules = {path: dataclasses.replace(rule, slots=tuple(slots[path])) for path, rule in rules.items()}
    for rule in rules.values():
        rule.check(where)

    def init(params: Params) -> NamedState:
        leaves = flatten(params)
        return _gather(specs, {path: (rule, *rule.init(leaves[path])) for path, rule in rules.items()})

    def update(grads: Params, state: NamedState, params: Params | None = None) -> tuple[Params, NamedState]:
        assert params is not None
        before, values = flatten(grads), flatten(params)
        trees = {name: flatten(tree) for name, tree in state.items() if isinstance(tree, Mapping)}
        single = {name: leaf for name, leaf in state.items() if not isinstance(leaf, Mapping)}
        updates: dict[str, jax.Array] = {}
        after: dict[str, tuple[_Rule, list[Array], list[Array]]] = {}
        for path, rule in rules.items():
            own = [trees[name][path] for name in rule.names(own=True)]
            shared = [single[name] for name in rule.names(own=False)]
            updates[path], *new = rule.update(before[path], own, shared, values[path])
            after[path] = (rule, new[0], new[1])
        return tree_like(specs, updates), _gather(specs, after)

    return optax.GradientTransformation(init, update), _state_specs(config, specs, rules, where)


def tree_like(specs: Specs, leaves: Mapping[str, T]) -> dict[str, T | Tree[T]]:
    """Returns leaves by path as a tree of the form of `specs`, without the paths that have none."""
    return _tree_like(specs, leaves, "")


def _tree_like(specs: Specs, leaves: Mapping[str, T], prefix: str) -> dict[str, T | Tree[T]]:
    out: dict[str, T | Tree[T]] = {}
    for key, value in specs.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            out |= {key: leaves[path]} if path in leaves else {}
        elif inner := _tree_like(value, leaves, f"{path}/"):
            out[key] = inner
    return out


def _gather(specs: Specs, states: Mapping[str, tuple[_Rule, list[Array], list[Array]]]) -> NamedState:
    """The named state: trees of the parameters' own arrays; what all share is taken from the first that has it."""
    trees: dict[str, dict[str, Array]] = {}
    shared: dict[str, Array] = {}
    for path, (rule, own, all_) in states.items():
        for name, leaf in zip(rule.names(own=True), own):
            trees.setdefault(name, {})[path] = leaf
        for name, leaf in zip(rule.names(own=False), all_):
            shared.setdefault(name, leaf)
    return shared | {name: tree_like(specs, leaves) for name, leaves in trees.items()}


def _rule(config: Optimizer, path: str, spec: ParamSpec) -> _Rule:
    stacked = len(spec.pieces)
    piece = dataclasses.replace(spec, shape=spec.shape[stacked:], axes=spec.axes[stacked:])
    core, state = _core(config, path, piece)
    return _Rule(path, spec, core, state)


def _core(config: Optimizer, path: str, piece: ParamSpec) -> tuple[optax.GradientTransformation, optax.OptState]:
    core = config.core(_tree(path, piece))
    return core, jax.eval_shape(core.init, _tree(path, jax.ShapeDtypeStruct(piece.shape, jnp.float32)))


def _tree(path: str, leaf: T) -> Tree[T]:
    return unflatten({path: leaf})


def _shape(spec: ParamSpec) -> tuple[int, ...]:
    return spec.shape[len(spec.pieces) :]


def _state_specs(config: Optimizer, specs: Specs, rules: Mapping[str, _Rule], where: str) -> StateSpecs:
    trees: dict[str, dict[str, StateSpec]] = {}
    shared: dict[str, StateSpec] = {}
    for path, rule in rules.items():
        count = len(rule.spec.pieces)
        stack, names = rule.spec.shape[:count], rule.spec.axes[:count]
        piece = dataclasses.replace(rule.spec, shape=rule.spec.shape[count:], axes=rule.spec.axes[count:])
        inferred = infer_axes(_shapes_of(config, path), piece)
        for slot, leaf, axes in zip(rule.slots, jax.tree.leaves(rule.abstract), inferred):
            if slot.own:
                axes = _chosen(config, slot.name, path, piece, leaf.shape, axes, where)
                trees.setdefault(slot.name, {})[path] = StateSpec((*stack, *leaf.shape), (*names, *axes), leaf.dtype)
            else:
                shared.setdefault(slot.name, StateSpec(leaf.shape, (None,) * len(leaf.shape), leaf.dtype))
    return shared | {name: tree_like(specs, leaves) for name, leaves in trees.items()}


def _shapes_of(config: Optimizer, path: str) -> Callable[[ParamSpec], list[tuple[int, ...]]]:
    return lambda piece: [a.shape for a in jax.tree.leaves(_core(config, path, piece)[1])]


def _chosen(
    config: Optimizer, name: str, path: str, piece: ParamSpec, shape: tuple[int, ...], axes: Axes | None, where: str
) -> Axes:
    """The axes of a state: those that the optimizer states, else those that were inferred."""
    stated = config.state_axes(name, piece)
    if stated is not None and (len(stated) != len(shape) or not set(stated) <= {None, *piece.axes}):
        raise JaxptError(
            f"{where}: state_axes gives {name} of {path} the axes {stated}; its shape is {shape}, the parameter's axes "
            f"are {piece.axes}"
        )
    axes = axes if stated is None else stated
    if axes is None:
        raise JaxptError(
            f"{where}: which of the axes {piece.axes} of {path} the dimensions {shape} of its state {name} follow "
            f"cannot be inferred from shapes; say so in its method state_axes"
        )
    return axes
