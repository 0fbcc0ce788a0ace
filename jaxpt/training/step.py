"""The train step: one global mean, its gradient over microbatches, one update; compiled once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxpt.errors import JaxptError
from jaxpt.models.batch import Batch
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params, branch
from jaxpt.models.specs import param_specs
from jaxpt.objectives.objective import PARENT, FrozenModel, Inputs, Objective
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.optim.freezing import stop_frozen, trainable
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.config import StageConfig
from jaxpt.training.extra import make_extra
from jaxpt.training.gradient import gradient
from jaxpt.training.moves import Moves
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import Layout, State, state_shardings

Metrics = dict[str, jax.Array]


class Step(Protocol):
    """A jitted train step."""

    def __call__(
        self, state: State[Array], batch: Batch[jax.Array], arguments: StepArguments[np.generic, Array]
    ) -> tuple[State[Array], Metrics]:
        """Returns the new state and the metrics; the state given is donated."""

    def lower(
        self,
        state: State[jax.ShapeDtypeStruct],
        batch: Mapping[str, jax.ShapeDtypeStruct],
        arguments: StepArguments[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct],
    ) -> jax.stages.Lowered:
        """Returns the step for such arguments, to be compiled ahead of time."""

    def _cache_size(self) -> int:
        """How often it was compiled."""


@dataclass(frozen=True)
class StepSpec:
    """Everything a compiled step depends on; stages with equal specs share one compilation.

    `unmoved`: the weights are those that the run started from, and the step leaves them so.
    """

    model: ModelConfig
    objective: Objective
    compute: Compute
    batch_size: int
    sequence_length: int
    microbatches: int
    freeze: tuple[str, ...]
    sources: int
    unmoved: bool = False

    @property
    def own(self) -> frozenset[str]:
        """The frozen models that are the trained one, by name: the step reads them out of its state."""
        paths = self.objective.frozen() if self.unmoved else {}
        return frozenset(name for name, path in paths.items() if path == PARENT)

    def __hash__(self) -> int:  # an objective's options may be dicts
        return hash((self.model, self.compute, self.batch_size, self.sequence_length, self.microbatches))


def step_spec(
    model: ModelConfig, stage: StageConfig, compute: Compute, sources: int, *, unmoved: bool = False
) -> StepSpec:
    """The step that `stage` needs."""
    sizes = (stage.batch_size, stage.sequence_length, stage.microbatches)
    return StepSpec(model, stage.objective, compute, *sizes, stage.freeze, sources, unmoved)


def make_step(
    spec: StepSpec,
    optimizer: BuiltOptimizer,
    layout: Layout,
    where: str = "stage",
    frozen: Mapping[str, ModelConfig] | None = None,
    safeguards: Safeguards | None = None,
) -> Step:
    """Returns the jitted step: `step(state, batch, arguments) -> (state, metrics)`.

    The state is donated. What is minimised is the objective's: microbatches add shares of one mean over the global
    batch, so their masks may differ. The batch is sharded by rows; learning rates, schedules, seed and frozen
    parameters are arguments, so that none of them recompiles. Metrics are replicated: scalars, and per source
    `[sources]`. `where` is the stage's config key in error messages, `frozen` the configs of the frozen models. The
    state has what `safeguards` remember (None: nothing).

    Raises:
        JaxptError: rows that do not divide over microbatches and devices, a name in `freeze` that the model lacks,
            extra things or groups of the objective that do not fit together.
    """
    objective, configs = spec.objective, frozen or {}
    sizes = (spec.compute, spec.microbatches, _rows_per_device(spec, layout, where), spec.sources)
    extra = make_extra(objective, spec.model, f"{where}.objective")
    of_model = (spec.model, param_specs(spec.model))
    masks = trainable(*of_model, spec.freeze, f"{where}.freeze", may_freeze_all=bool(extra.specs))
    guards = safeguards or Safeguards()
    mean, guard = guards.shardings(layout, optimizer.specs)
    shardings = state_shardings(layout, optimizer)._replace(extra=extra.shardings(layout), mean=mean, guard=guard)
    of_trained = (layout.params, branch(shardings.extra, "values") if extra.specs else {})
    tokens = spec.batch_size * spec.sequence_length
    moves = Moves(objective, spec.model, optimizer, extra, masks, guards, tokens)

    def step(
        state: State[Array], batch: Batch[jax.Array], given: StepArguments[jax.Array, Array]
    ) -> tuple[State[Array], Metrics]:
        total = jnp.sum(batch["loss_weights"])
        weight_sum = jnp.where(total > 0, total, 1.0)
        values = branch(state.extra, "values") if extra.specs else {}
        inputs = Inputs(
            spec.model,
            state.params,
            batch,
            weight_sum,
            *sizes,
            extra=values,
            frozen=_frozen_models(configs, {**given.frozen, **dict.fromkeys(spec.own, state.params)}),
            scheduled=given.scheduled,
            key=jax.random.fold_in(jax.random.key(given.seed), given.step),
        )
        stop = lambda params: stop_frozen(params, masks)  # noqa: E731
        (grads, extra_grads), facts = gradient(objective, inputs, (state.params, values), of_trained, stop)
        state, logged = moves(state, grads, extra_grads, facts, given)
        return state, {**logged, **objective.report(facts[1])}

    arguments = _arguments(objective, layout, {n: c for n, c in configs.items() if n not in spec.own})
    inward, outward = (shardings, batch_sharding(layout.mesh), arguments), (shardings, layout.replicated)
    compiled = jax.jit(step, donate_argnums=0, in_shardings=inward, out_shardings=outward)
    return compiled  # type: ignore[return-value]  # its type in JAX lacks _cache_size


def _frozen_models(configs: Mapping[str, ModelConfig], params: Mapping[str, Params]) -> dict[str, FrozenModel]:
    return {name: FrozenModel(configs[name], leaves) for name, leaves in params.items()}


def _arguments(
    objective: Objective, layout: Layout, frozen: Mapping[str, ModelConfig]
) -> StepArguments[NamedSharding, NamedSharding]:
    """Where the arguments of a step lie; `frozen` are those that it is given."""
    whole, of_frozen = layout.replicated, {n: layout.of(param_specs(c)) for n, c in frozen.items()}
    rates, scheduled = dict.fromkeys(objective.groups(), whole), dict.fromkeys(objective.scheduled(), whole)
    return StepArguments(whole, rates, scheduled, whole, whole, of_frozen)


def _rows_per_device(spec: StepSpec, layout: Layout, where: str) -> int:
    rows = spec.batch_size // spec.microbatches
    if rows % layout.rows:
        raise JaxptError(
            f"{where}.batch_size {spec.batch_size} in {spec.microbatches} microbatches gives {rows} rows, which the "
            f"{layout.rows} devices on the mesh axes data, fsdp and expert do not divide"
        )
    return rows // layout.rows
