"""The optimizer of a train step, built from its options and the axis table as a chain of optax transformations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.models.mup import Scaling
from jaxpt.models.params import Params, Tree
from jaxpt.models.specs import Specs, flatten
from jaxpt.optim.multipliers import multipliers
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.pieces import NamedState, StateSpecs, by_piece, tree_like
from jaxpt.optim.state_axes import StateSpec, state_sharding

Shardings = Tree[NamedSharding]


@dataclass(frozen=True)
class BuiltOptimizer:
    """An optimizer for the parameters of `specs`.

    `init(params) -> state`; `update(grads, state, params) -> (updates, new state)`, where updates are what the step
    subtracts, times the learning rate and `lr_mult`: neither is part of the state. The state is `{state name: tree by
    parameter path, or one array for all parameters}`, and `state_specs` says of each array what it is.
    """

    config: Optimizer
    specs: Specs
    init: Callable[[Params], NamedState]
    update: Callable[[Params, NamedState, Params], tuple[Params, NamedState]]
    lr_mult: Tree[float]
    state_specs: StateSpecs

    @property
    def state_bytes(self) -> int:
        """Bytes of the whole state."""
        return sum(spec.nbytes for spec in jax.tree.leaves(self.state_specs))

    def state_shardings(self, params: Shardings) -> dict[str, NamedSharding | Shardings]:
        """Returns how the state lies: by the axes it shares with the parameters, what it does not share is whole.

        Args:
            params: how the parameters lie.
        """
        where, specs = flatten(params), flatten(self.specs)
        mesh = next(iter(where.values())).mesh

        def of(state: StateSpec | Tree[StateSpec]) -> NamedSharding | Shardings:
            if isinstance(state, StateSpec):
                return NamedSharding(mesh, PartitionSpec())
            return tree_like(self.specs, {p: state_sharding(s, specs[p], where[p]) for p, s in flatten(state).items()})

        return {name: of(state) for name, state in self.state_specs.items()}


def make_optimizer(config: Optimizer, specs: Specs, scaling: Scaling | None = None) -> BuiltOptimizer:
    """Returns the optimizer of `config` for the parameters of `specs`: clip → core → + weight_decay · wd_mult · p.

    The weight decay is thereby multiplied by the learning rate (Loshchilov & Hutter, arXiv 1711.05101).

    Args:
        config: its options.
        specs: the axis table, or any tree of `ParamSpec`.
        scaling: the model against µP's base shape; None: standard parameterisation.

    Raises:
        JaxptError: a state of the optimizer that has no name or no axes.
    """
    table = {path: multipliers(spec, config.update_size(spec), scaling) for path, spec in flatten(specs).items()}
    core, state_specs = by_piece(config, specs, {path: m.eps for path, m in table.items()})
    decay = {path: config.weight_decay * m.weight_decay for path, m in table.items()}
    chain = optax.chain(_clip(config.clip_norm), core, _add_decay(specs, decay))

    def init(params: Params) -> NamedState:
        return chain.init(params)[1]

    def update(grads: Params, state: NamedState, params: Params) -> tuple[Params, NamedState]:
        empty = optax.EmptyState()  # of clipping and decay, which keep none
        updates, (_, state, _) = chain.update(grads, (empty, state, empty), params)
        return updates, state

    rates = {path: config.rate(spec) for path, spec in flatten(specs).items()}
    lr_mult = tree_like(specs, {path: m.learning_rate * rates[path] for path, m in table.items()})
    return BuiltOptimizer(config, specs, init, update, lr_mult, state_specs)


def _clip(limit: float | None) -> optax.GradientTransformation:
    """Scales gradients down to a global norm of `limit` where it is above (Pascanu et al., arXiv 1211.5063).

    One factor for all, which the compiler fuses with what follows: `optax.clip_by_global_norm` divides every entry, and
    on a CPU the clipped gradients are then written to memory and read again.
    """

    if limit is None:
        return optax.identity()

    def clip(grads: Params, params: Params | None) -> Params:
        scale = jnp.minimum(1.0, limit / jnp.maximum(global_norm(grads), 1e-12))
        return jax.tree.map(lambda g: g * scale, grads)

    return optax.stateless(clip)


def _add_decay(specs: Specs, decay: Mapping[str, float]) -> optax.GradientTransformation:
    """Adds each parameter times its decay; `optax.add_decayed_weights` has one number for all."""

    def add(updates: Params, params: Params) -> Params:
        old, values = flatten(updates), flatten(params)
        return tree_like(specs, {p: u + decay[p] * values[p] if decay[p] else u for p, u in old.items()})

    return optax.stateless(add)


def descend(params: Params, updates: Params, learning_rate: jax.Array, lr_mult: Tree[float]) -> Params:
    """Returns the parameters after a step: `p - learning_rate · lr_mult · update`."""
    return jax.tree.map(lambda p, u, m: p - learning_rate * m * u, params, updates, lr_mult)


def global_norm(tree: Params) -> jax.Array:
    """Euclidean norm over all entries of a tree, float32 scalar."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))
