"""What an objective is: a frozen dataclass of options whose methods say what is minimised, and with which things.

The smallest one, in a file of your own, chosen by `objective.name="my_module:Squared"`:

    @dataclass(frozen=True)
    class Squared(Objective):
        power: float = option(2.0, "exponent of the token's negative log-likelihood")

        def terms(self, inputs: Inputs) -> Terms:
            b = inputs.batch
            logits = forward(inputs.model, inputs.params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute)
            nll, _ = from_logits(logits, b["targets"])
            loss = jnp.sum(b["loss_weights"] * nll**self.power) / inputs.weight_sum
            return Terms(loss, {"loss": loss})

Every method is traced under `jit`: it sees arrays without values and returns arrays. What a method returns for a
microbatch is that microbatch's share, so that shares of all microbatches and hosts add up to the value of the global
batch; divide by sums over the global batch (`weight_sum`, or what `first_pass` gave), never by those of the microbatch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Never

import jax
import numpy as np

from jaxpt.config.choice import Choice
from jaxpt.models.batch import Batch
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params
from jaxpt.models.size import flops_per_token
from jaxpt.models.specs import ParamSpec
from jaxpt.optim.optimizer import Optimizer

Sums = Mapping[str, Any]  # tree of arrays that add up over microbatches
NONE: Mapping[str, Never] = {}
ANCESTOR = ""  # as the path of a frozen model: what the run's own model was reshaped from, as its lineage says
PARENT = "config.init_from"  # as the path of a frozen model: what the run started from, as it was then


@dataclass(frozen=True)
class ExtraSpec(ParamSpec):
    """A trainable thing of the objective's own (a gate, a multiplier, a projection): float32, with named axes.

    `group` names the optimizer group that moves it. A value is drawn as a parameter's is (`init`, `init_std`), plus
    `init_mean`; at first and after each update it is brought between the two `bounds`, if it has some. It is sharded by
    its axes' names; a dimension that its mesh axis does not divide stays whole.
    """

    group: str = ""
    init_mean: float = 0.0
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Progress:
    """Where in its stage a step is: `step` of `steps` are done; each takes `tokens_per_step` positions."""

    step: int
    steps: int
    tokens_per_step: int

    @property
    def share(self) -> float:
        """Share of the stage that is done: 0 at its first step, below 1 at its last."""
        return self.step / max(1, self.steps)

    @property
    def tokens(self) -> int:
        """Positions (B × S) of the stage that are done."""
        return self.step * self.tokens_per_step


Scheduled = Callable[[Progress], float]


class CachedTargets(NamedTuple):
    """Caches of teacher targets (`jaxpt.data.target_cache`) whose entries an objective finds in its batch, as
    `jaxpt.models.batch.DistillBatch`.

    `caches` are their directories by source; `temperature` is the one that all must have; `teacher` is the model that
    they must be of (None: any one model, the same for all).
    """

    caches: Mapping[str, str]
    temperature: float
    teacher: str | None


@dataclass(frozen=True)
class Group:
    """How a group of extra things is trained: by an optimizer of its own, with its own rate, decay and clipping.

    `ascent` maximises the objective instead of minimising it (a Lagrangian's multipliers). `schedule` gives multiples
    of the optimizer's learning rate; None: the ratio of the stage's learning rate to its peak.
    """

    optimizer: Optimizer
    ascent: bool = False
    schedule: Scheduled | None = None


class FrozenModel(NamedTuple):
    """A model that is read and not trained, laid out on the run's mesh in its own dtypes."""

    config: ModelConfig
    params: Params


class FrozenFacts(NamedTuple):
    """What is known of a frozen model before it is read.

    `layers` says for each layer of the model that is trained which layer of this one it was made of; None: unknown.
    """

    config: ModelConfig
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Inputs:
    """What an objective's methods read.

    Args:
        model: the model that is trained.
        params: its parameters, float32; frozen ones have no gradient.
        batch: a microbatch; None for `step_terms`.
        weight_sum: Σ loss weights of the global batch, at least a tiny positive number.
        compute: dtypes, remat, attention.
        microbatches: into how many the global batch is split; 1: `batch` is all of it.
        rows_per_device: rows of a microbatch on one device.
        sources: number of sources, that `batch["source_id"]` counts.
        extra: the extra things, a nested dict by the paths of `extra_specs`.
        frozen: the models of `frozen`, by name.
        scheduled: the values of `scheduled` at this step, float32 scalars, by name.
        key: a random key of the run's seed and this step, the same for all microbatches and hosts.
        totals: what `first_pass` returned, summed over the global batch; None where it returned None.
    """

    model: ModelConfig
    params: Params = field(repr=False)
    batch: Batch[jax.Array] | None = field(repr=False)
    weight_sum: jax.Array
    compute: Compute
    microbatches: int = 1
    rows_per_device: int = 1
    sources: int = 1
    extra: Params = field(default_factory=dict)
    frozen: Mapping[str, FrozenModel] = field(default_factory=dict)
    scheduled: Mapping[str, jax.Array] = field(default_factory=dict)
    key: jax.Array | None = None
    totals: Sums | None = None


class Terms(NamedTuple):
    """A share of what is minimised.

    `loss` is a float32 scalar, whose gradient is taken. `named` are float32 scalars to report as `train/NAME`; that of
    `terms` named "loss" is what a run shows (where none is, the loss of `terms`). `sums` is a dict of further arrays,
    which `report` and `after_update` get summed over the global batch.
    """

    loss: jax.Array
    named: Mapping[str, jax.Array] = NONE
    sums: Sums = NONE


@dataclass(frozen=True)
class Objective(Choice, kind="objective", room="jaxpt.objectives", default="next_token"):
    """What a stage minimises. Only `terms` must be written; every other method has a default that asks for nothing."""

    def terms(self, inputs: Inputs) -> Terms:
        """Returns a microbatch's share of the loss."""
        raise NotImplementedError(f"{type(self).__name__}.terms")

    def extra_specs(self, model: ModelConfig) -> Mapping[str, ExtraSpec]:
        """Returns the trainable things of its own, by path ("gates/mlp")."""
        return {}

    def groups(self) -> Mapping[str, Group]:
        """Returns the optimizer groups that `extra_specs` name."""
        return {}

    def frozen(self) -> Mapping[str, str]:
        """Returns the paths of models that it reads, by name: bundles, checkpoints, Hugging Face directories.

        `ANCESTOR` is the model that the run's own was reshaped from, `PARENT` the one that the run started from.
        """
        return {}

    def cached_targets(self) -> CachedTargets | None:
        """Returns the caches that a teacher's targets are read from; None: the batch has none."""
        return None

    def beside(self, model: ModelConfig, frozen: Mapping[str, FrozenFacts], where: str) -> "Objective":
        """Returns the objective with what it must know of the models that it reads, asked once before a run begins.

        Args:
            model: the model that is trained.
            frozen: the models of `frozen`, by name.
            where: the objective's key, for messages.
        """
        return self

    def without_frozen(self) -> "tuple[Objective, str] | None":
        """Returns the objective without the models that it reads, and what to do where only they do not fit."""
        return None

    def describe(self) -> list[str]:
        """Returns what a plan shows of it, besides its name and its frozen models."""
        return []

    def flops_per_token(self, model: ModelConfig, frozen: Mapping[str, ModelConfig], sequence_length: int) -> float:
        """Returns the FLOPs of a training step per position: those of the model, and a forward pass of each frozen one.

        Args:
            model: the model that is trained.
            frozen: the configs of the frozen models, by name.
            sequence_length: S.
        """
        forwards = [flops_per_token(config, sequence_length, backward=False) for config in frozen.values()]
        return flops_per_token(model, sequence_length) + sum(forwards)

    def scheduled(self) -> Mapping[str, Scheduled]:
        """Returns functions of the progress through the stage, by name; a step gets their values, never recompiled."""
        return {}

    def first_pass(self, inputs: Inputs) -> Sums | None:
        """Returns sums over a microbatch that `terms` needs of the whole batch (as `totals`); None: nothing.

        It is called for every microbatch before the first of `terms`, without gradient.
        """
        return None

    def step_terms(self, inputs: Inputs) -> Terms | None:
        """Returns terms that need no batch, which enter once per step whatever the microbatches; None: nothing."""
        return None

    def after_update(self, model: ModelConfig, params: Params, sums: Sums) -> Params:
        """Returns the parameters moved by rules of its own, once per step, after the optimizer."""
        return params

    def evaluated(
        self, model: ModelConfig, params: Params, extra: Mapping[str, np.ndarray], progress: Progress
    ) -> Params:
        """Returns the parameters as evaluations and measured losses see them, between two steps.

        Args:
            model: the model that is trained.
            params: its parameters.
            extra: the extra things on the host, by path; empty before the first step.
            progress: through the stage.
        """
        return params

    def live(self, metrics: Mapping[str, float]) -> Mapping[str, str]:
        """Returns what the progress line shows besides the loss, from a step's metrics by full name."""
        return {}

    def report(self, sums: Sums) -> Mapping[str, jax.Array]:
        """Returns metrics made of the sums over the global batch: scalars by full name ("moe/entropy")."""
        return {}
