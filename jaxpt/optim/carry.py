"""An optimizer's state through a reshape: moments move as gradients do, what cannot follow starts new, by name."""

from collections.abc import Mapping

import numpy as np
from jax.sharding import NamedSharding

from jaxpt.models.params import Array, Params, Tree
from jaxpt.models.specs import ParamSpec, flatten
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.optim.pieces import NamedState, tree_like
from jaxpt.optim.state_axes import StateSpec
from jaxpt.reshape.apply import apply
from jaxpt.reshape.rewrite import Rewrite

Shardings = Tree[NamedSharding]


def carry_state(
    rewrite: Rewrite,
    old: BuiltOptimizer,
    new: BuiltOptimizer,
    state: NamedState,
    params: Params,
    shardings: Shardings | None = None,
) -> tuple[NamedState, tuple[str, ...]]:
    """Returns the state of the reshaped model's optimizer, and what of it started new.

    A state is carried where it has its parameter's axes and the optimizer says which power of the gradient it is a
    moment of (`Optimizer.moments`). What belongs to no parameter (`count`) stays, if it has the same shape and some
    state was carried: with all else new, a count of earlier steps would take the means for old ones.

    Args:
        rewrite: the transform.
        old: the optimizer of the model before.
        new: that of the model after; of the same choice.
        state: of the model before.
        params: of the model after, for what starts new.
        shardings: how the parameters of the model after lie; None: on the host or where the state lies.

    Returns:
        The state, and the names of what started new: `v_row`, or `mu/blocks/moe/router` where only some of it did.
    """
    fresh = new.init(params)
    out: dict[str, Array | Params] = {}
    reset: list[str] = []
    trees = {name: spec for name, spec in new.state_specs.items() if not isinstance(spec, StateSpec)}
    for name, spec in trees.items():
        first, held = fresh[name], state.get(name, {})
        assert isinstance(first, Mapping), name
        tree = held if isinstance(held, Mapping) else {}
        carried = _carry_tree(rewrite, old, new, name, tree, shardings)
        begun = [path for path in flatten(spec) if path not in carried]
        out[name] = tree_like(new.specs, {**flatten(first), **carried})
        reset += [name] if not carried else [f"{name}/{path}" for path in begun]
    all_new = bool(trees) and set(trees) <= set(reset)
    for name in new.state_specs.keys() - trees.keys():
        same = old.state_specs.get(name) == new.state_specs[name] and not all_new
        out[name] = state[name] if same else fresh[name]
        reset += [] if same else [name]
    return {name: out[name] for name in new.state_specs}, tuple(reset)


def _carry_tree(
    rewrite: Rewrite, old: BuiltOptimizer, new: BuiltOptimizer, name: str, tree: Params, shardings: Shardings | None
) -> dict[str, Array]:
    """The leaves of a state that can be carried, by path."""
    power = new.config.moments.get(name)
    if power is None or type(old.config) is not type(new.config):
        return {}
    before, after = _like_parameters(old, name), _like_parameters(new, name)
    kept = {
        path
        for path, rule in rewrite.rules.items()
        if path in after and all(term.source is None or term.source in before for term in rule)
    }
    if not kept:
        return {}
    leaves = flatten(tree)
    nothing = np.zeros((), np.float32)  # stands for the leaves that are not there or have another shape
    whole = {
        path: leaves[path] if path in before else np.broadcast_to(nothing, spec.shape)
        for path, spec in flatten(old.specs).items()
    }
    carried = flatten(apply(rewrite, tree_like(old.specs, whole), shardings, moment=power))
    return {path: leaf for path, leaf in carried.items() if path in kept}


def _like_parameters(optimizer: BuiltOptimizer, name: str) -> set[str]:
    """The paths at which a state has its parameter's shape and axes."""
    specs: Mapping[str, ParamSpec] = flatten(optimizer.specs)
    tree: StateSpec | Tree[StateSpec] = optimizer.state_specs.get(name, {})
    states = flatten(tree) if isinstance(tree, Mapping) else {}
    return {p for p, s in states.items() if (s.shape, s.axes) == (specs[p].shape, specs[p].axes)}
