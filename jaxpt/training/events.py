"""What happens between two steps: events, each with when it is due, which see the run and return what changes in it."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxpt.config.duration import Duration
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params
from jaxpt.models.specs import flatten
from jaxpt.objectives.objective import Progress
from jaxpt.training.run_plan import RunPlan, StagePlan

if TYPE_CHECKING:
    from jaxpt.training.active_run import ActiveRun
    from jaxpt.training.state import State


@dataclass(frozen=True)
class Due:
    """When an event is due: `every` so often, at the last step of each stage, before the first step, after the last."""

    every: Duration | None = None
    stage_ends: bool = False
    first: bool = False
    last: bool = False

    def at(self, plan: RunPlan, step: int) -> bool:
        """Whether it is due once `step` steps of `plan` are finished."""
        if step == 0:
            return self.first
        if (self.last and step == plan.steps) or (
            self.stage_ends and any(step == stage.whole[1] for stage in plan.stages)
        ):
            return True
        tokens = plan.tokens_at
        return self.every is not None and self.every.is_due(step - 1, step, tokens(step - 1), tokens(step))


@dataclass(frozen=True)
class Changes:
    """What an event changes in the run.

    `values` are logged as a record of the step. `weights` (by source, only their ratios count) hold from the next batch
    to the stage's end. `save` writes a checkpoint of this step; `stop` says why the run should stop: it is saved first,
    and goes on from there when it is started again. `failed` says why there is nothing to log; the run goes on.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] | None = None
    save: bool = False
    stop: str | None = None
    failed: str | None = None


class RunView:
    """The run between two steps, as an event sees it; read only. What it holds is up to date at each look."""

    def __init__(self, run: "ActiveRun"):
        """Looks at `run`."""
        self._run = run

    @property
    def plan(self) -> RunPlan:
        """The whole run: its config, stages and sources."""
        return self._run.plan

    @property
    def step(self) -> int:
        """Finished steps."""
        return self._run.step

    @property
    def stage(self) -> StagePlan:
        """The stage of the last finished step; before the first step the first stage."""
        return self.plan.stages[self.plan.stage_of(max(0, self.step - 1))]

    @property
    def tokens(self) -> int:
        """Positions (B × S) trained on so far."""
        return self.plan.tokens_at(self.step)

    @property
    def model(self) -> ModelConfig:
        """The model with the stage's rope."""
        return self.stage.model

    @property
    def state(self) -> "State":
        """Parameters, optimizer state and what else a step changes; the next step donates these arrays."""
        return self._run.state

    @property
    def params(self) -> Params:
        """The parameters, sharded over `mesh`."""
        return self._run.state.params

    @property
    def evaluated(self) -> Params:
        """The parameters as the objective wants them measured (`Objective.evaluated`): under its final mask, if any."""
        return self._measured(self.state.params)

    @property
    def mean(self) -> Params:
        """The mean of the parameters (`config.averaging`), in their form; {} where none is kept."""
        return self._run.state.mean

    @property
    def evaluated_mean(self) -> Params:
        """The mean of the parameters as the objective wants it measured; {} where none is kept."""
        return self._measured(self.mean) if self.mean else {}

    def _measured(self, params: Params) -> Params:
        stage, state = self.stage, self.state
        if not state.extra:
            return params
        whole = _gathering(self._run.program.layout.replicated)(state.extra["values"])
        extra = {path: np.asarray(value) for path, value in flatten(whole).items()}
        progress = Progress(self.step - stage.first, stage.stop - stage.first, stage.config.tokens_per_step)
        return stage.config.objective.evaluated(stage.model, params, extra, progress)

    @property
    def metrics(self) -> dict[str, float]:
        """What the last step returned (`train/loss`, `train/targets`, …), no loss without targets."""
        values = {name: value for name, value in self._run.values.items() if "/" in name}
        return {name: float(value) for name, value in jax.device_get(values).items()}

    @property
    def weights(self) -> dict[str, float]:
        """The mixture weights in force for the next batch, by source."""
        return self._run.feed.weights(self.step)

    @property
    def workdir(self) -> Path:
        """The run directory; process 0 alone writes to it."""
        return self._run.workdir

    @property
    def mesh(self) -> Mesh:
        """The mesh of all devices."""
        return self._run.program.layout.mesh

    @property
    def save_requested(self) -> bool:
        """Whether an event asked for a checkpoint of this step."""
        return self._run.save_requested

    @property
    def stop_requested(self) -> str | None:
        """Why the run stops after this step, None where it goes on."""
        return self._run.stop_requested

    def has_record(self, prefix: str) -> bool:
        """Whether a value of this step whose name begins with `prefix` was logged before the run was started again."""
        return self._run.metrics.has(self.step, prefix)


@functools.cache
def _gathering(everywhere: NamedSharding) -> Callable[[Params], Params]:
    """What brings arrays to every device."""
    return jax.jit(lambda values: values, out_shardings=everywhere)


class Event(ABC):
    """An entry of the list of what happens between two steps. All hosts call it at the same steps.

    An event acts before the checkpoint of its step, if there is one, which then holds what it changed. One that is
    `after_checkpoint` measures what may take long: its step is saved first, and it is due again where the run is
    started again from that step, so that a kill meanwhile loses nothing; it changes no weights.
    """

    name: str = "event"
    due: Due = Due()
    after_checkpoint: bool = False
    pauses_clock: bool = True  # the time it takes counts for no step

    def is_due(self, view: RunView) -> bool:
        """Whether to act now; asked after each step, and before the first where `due.first`."""
        return self.due.at(view.plan, view.step)

    @abstractmethod
    def act(self, view: RunView) -> Changes:
        """Looks at the run, does what it is for, and returns what changes."""
