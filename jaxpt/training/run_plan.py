"""Everything about a run that can be known before step one, and every mistake that can be found there."""

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.data import PackedSource
from jaxpt.data.weights import flat_weights, row_weights
from jaxpt.errors import JaxptError
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.mup import Scaling, initial_specs, parameterised, scaling
from jaxpt.models.section import stated, with_rope
from jaxpt.models.size import param_count
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.optim.curve import Curve
from jaxpt.optim.freezing import freezes_all
from jaxpt.tokenizers import Tokenizer
from jaxpt.tokenizers.fingerprints import accepts
from jaxpt.training import history
from jaxpt.training.config import RunConfig, StageConfig
from jaxpt.training.history import Leg
from jaxpt.training.reached import Reached, Since, outlines, reached
from jaxpt.training.step import StepSpec, step_spec


class SourceFacts(Protocol):
    """What the plan asks of a packed source (`jaxpt.data.PackedSource`)."""

    rows: int
    tokens: int
    sequence_length: int
    vocab_size: int
    tokenizer_fingerprint: str
    fingerprint: str


@dataclass(frozen=True)
class StagePlan:
    """A stage, or its steps of one batch size where that changes, with everything resolved: model, schedule and step.

    Global steps [first, stop) are its own; `whole` are those of the stage that it is a part of, `index` is the stage's
    place in the config. `weights` is the mixture in row slots, one number per source it names. `schedule` is None for a
    stage that is done and whose config has changed since; `since` says where a segment began as its length changed.
    """

    config: StageConfig
    first: int
    stop: int
    model: ModelConfig
    schedule: Curve | None
    peak: float
    step: StepSpec
    weights: Mapping[str, float]
    whole: tuple[int, int]
    index: int
    since: Since | None = None

    def rate(self, step: int) -> float:
        """The learning rate at global step `step`; after the stage's end the last one."""
        assert self.schedule is not None
        return self.peak * self.schedule.multiple(step - self.whole[0])


@dataclass(frozen=True)
class RunPlan:
    """A run that passed all checks. `past` are the steps that are done: no change of the config moves them.

    `frozen` says which models the paths of the objectives name in this run (`jaxpt.training.frozen.pin_frozen`), and
    `frozen_models` what they are. `spent` is a step of the past and the FLOPs of all before it, as its checkpoint has
    them. `unmoved`: the past has moved no weight. `branch` says which checkpoint of which run a branch began from
    (`jaxpt.training.branching`).
    """

    config: RunConfig
    model: ModelConfig  # before any stage changes its rope
    stages: tuple[StagePlan, ...]
    sources: Mapping[str, PackedSource]
    past: tuple[Leg, ...] = ()
    frozen: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    frozen_models: Mapping[str, ModelConfig] = field(default_factory=dict)
    spent: tuple[int, float] = (0, 0.0)
    unmoved: bool = True
    branch: Mapping[str, Any] | None = None

    @property
    def scaling(self) -> Scaling | None:
        """The model's shape, as it is now, against the base of `config.mup`; None: standard parameterisation."""
        return None if self.config.mup is None else scaling(self.config.mup, self.model)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.stages[-1].stop

    @property
    def source_names(self) -> list[str]:
        """In the order of `source_id`."""
        return list(self.sources)

    @functools.cached_property
    def legs(self) -> tuple[Leg, ...]:
        """All steps: those that are done, and those to come."""
        return history.whole(self.config.stages, self.past)

    def tokens_at(self, step: int) -> int:
        """Positions (B × S) trained on before global step `step`."""
        return history.tokens_before(self.legs, step)

    def stage_of(self, step: int) -> int:
        """Index of the stage that global step `step` belongs to; at the run's end that of the last."""
        return sum(step >= stage.stop for stage in self.stages[:-1])

    def flops_per_token(self, stage: StagePlan, *, frozen: bool = True) -> float:
        """FLOPs of a step of `stage` per position, those of the frozen models included unless `frozen` is False."""
        paths = stage.config.objective.frozen() if frozen else {}
        models = {name: self.frozen_models[path] for name, path in paths.items() if path in self.frozen_models}
        return stage.config.objective.flops_per_token(stage.model, models, stage.config.sequence_length)

    def frozen_share(self, stage: StagePlan) -> float:
        """Share of a stage's FLOPs that its frozen models take."""
        return 1 - self.flops_per_token(stage, frozen=False) / self.flops_per_token(stage)

    def flops_at(self, step: int) -> float:
        """FLOPs of all steps before global step `step`, forward passes of frozen models included."""
        done, total = self.spent if self.spent[0] <= step else (0, 0.0)
        by_name = {stage.config.name: stage for stage in self.stages}
        for leg in self.legs:
            steps = max(0, min(step, leg.stop) - max(leg.first, done))
            if steps and leg.stage in by_name:
                total += steps * leg.tokens_per_step * self.flops_per_token(by_name[leg.stage])
        return total

    def to_save(self, step: int) -> RunItem:
        """What a checkpoint at `step` keeps of the past, JSON-ready, and of the plan as it is now."""
        stage, last = self.stages[self.stage_of(step)], self.stages[self.stage_of(max(0, step - 1))]
        since = {s.config.name: list(s.since) for s in self.stages if s.since}
        return {
            "tokens": self.tokens_at(step),
            "flops": self.flops_at(step),
            "history": history.to_json(history.until(self.legs, step)),
            "durations": {s.name: s.duration for s in self.config.stages},
            "exact_durations": True,
            "learning_rate": last.rate(step - 1) if last.schedule and step > last.whole[0] else None,
            "learning_rate_next": stage.rate(step) if stage.schedule else None,
            "unmoved": self.unmoved and all(s.step.unmoved for s in self.stages if s.first < step),
            **({"segments_since": since} if since else {}),
            **({"branch": dict(self.branch)} if self.branch else {}),
            **({"frozen": {path: dict(pin) for path, pin in self.frozen.items()}} if self.frozen else {}),
        }


def make_plan(
    config: RunConfig,
    sources: Mapping[str, PackedSource],
    model: ModelConfig | None = None,
    tokenizer: Tokenizer | None = None,
    past: Sequence[Leg] = (),
    saved: RunItem | None = None,
) -> RunPlan:
    """Checks the sources against the config and resolves every stage.

    Args:
        config: the run.
        sources: the opened sources of `config.sources`, in that order.
        model: the model of `init_from`, None where the run starts from `config.model`.
        tokenizer: the tokenizer of `config.tokenizer` or `init_from`, None where neither has one.
        past: the steps that are done, none for a new run; the config plans what comes after them.
        saved: the `run` item of the checkpoint that has them, for what else of the past decides.

    Raises:
        JaxptError: a source that is empty, of another row length, vocabulary or tokenizer; a schedule that does not
            fit its stage; an unknown name; a stage of the past that was renamed, moved or removed.
    """
    given, model = model, config.model.model(model)
    if config.mup is not None and (scale := scaling(config.mup, model)) and given is None:
        model = parameterised(model, scale)  # a model of init_from keeps its forward pass
        initial_specs(model, scale)
    for name, source in sources.items():
        check_source(f"config.sources.{name}", config.sources[name].path, source, model, tokenizer)
    branch, unmoved = (saved.get("branch"), saved.get("unmoved", False)) if saved else (None, not past)
    stages = _stage_plans(config, sources, model, past, reached(saved, past), branch, unmoved=unmoved)
    return RunPlan(config, model, stages, sources, tuple(past), unmoved=unmoved, branch=branch)


def continued(plan: RunPlan, saved: RunItem) -> RunPlan:
    """Returns `plan` as it is from a restored checkpoint on.

    Args:
        plan: the run as made from the config.
        saved: the `run` item of the checkpoint: its steps, tokens and stage boundaries hold, and its order of sources,
            after which those come that are new.

    Raises:
        JaxptError: a stage of the past that was renamed, moved or removed.
    """
    past = history.read_legs(saved, plan.config.stages)
    known = [n for n in saved.get("schedule_log", {}).get("names", []) if n in plan.sources]
    sources = {n: plan.sources[n] for n in dict.fromkeys([*known, *plan.sources])}
    branch = saved.get("branch")
    stages = _stage_plans(plan.config, sources, plan.model, past, reached(saved, past), branch, unmoved=plan.unmoved)
    kernels = {stage.config.name: stage.step.compute for stage in plan.stages}  # as compared on this machine
    stages = tuple(_with_compute(stage, kernels.get(stage.config.name)) for stage in stages)
    spent = (saved["step"], saved["flops"]) if "flops" in saved else (0, 0.0)
    return replace(plan, stages=stages, sources=sources, past=past, spent=spent, branch=branch)


def _stage_plans(
    config: RunConfig,
    sources: Mapping[str, SourceFacts],
    model: ModelConfig,
    past: Sequence[Leg],
    known: Reached | None = None,
    branch: Mapping[str, Any] | None = None,
    *,
    unmoved: bool,
) -> tuple[StagePlan, ...]:
    stages, now = [], model
    for i, lying in enumerate(outlines(config, past, known, branch)):
        stage, whole, later, curve, peak, since = lying
        where = f"config.stages[{i}]"
        weights = _checked_weights(stage, config, sources, where)
        if stage.rope is not None:
            now = with_rope(now, stated(stage.rope))
        if stage.pose is not None:
            check_pose(f"{where}.pose.target", stage, now)
        unmoved = unmoved and freezes_all(now, stage.freeze, f"{where}.freeze")
        edges = [whole[0], *(leg.stop for leg in later[:-1]), whole[1]]
        sizes = [leg.batch_size for leg in later] or [stage.batch_size]
        for first, stop, size in zip(edges, edges[1:], sizes):
            part = stage.at_size(size)
            step = step_spec(now, part, config.compute, len(sources), unmoved=unmoved)
            stages.append(StagePlan(part, first, stop, now, curve, peak, step, weights, whole, i, since))
    return tuple(stages)


def _with_compute(stage: StagePlan, compute: Compute | None) -> StagePlan:
    return stage if compute is None else replace(stage, step=replace(stage.step, compute=compute))


def _checked_weights(
    stage: StageConfig, config: RunConfig, sources: Mapping[str, SourceFacts], where: str
) -> dict[str, float]:
    """A stage's weights of row slots; raises where a source in use has rows of another length."""
    weights = stage_weights(stage, sources, f"{where}.mixture")
    for name in weights:
        if weights[name] > 0 and sources[name].sequence_length != stage.sequence_length:
            raise JaxptError(
                f"{where}.sequence_length is {stage.sequence_length}, the rows of source {name} "
                f"({config.sources[name].path}) have {sources[name].sequence_length} tokens; pack the source again "
                f"or set --{where}.sequence_length={sources[name].sequence_length}"
            )
    return weights


def stage_weights(stage: StageConfig, sources: Mapping[str, SourceFacts], where: str) -> dict[str, float]:
    """Returns the stage's mixture as weights of row slots, groups and sizes resolved."""
    if stage.mixture_unit == "rows":
        return flat_weights(stage.mixture, {n: s.rows for n, s in sources.items()}, where)
    weights = flat_weights(stage.mixture, {n: s.tokens for n, s in sources.items()}, where)
    return row_weights(weights, {n: s.tokens / (s.rows * s.sequence_length) for n, s in sources.items()})


def check_pose(where: str, stage: StageConfig, model: ModelConfig) -> None:
    """Raises a JaxptError where positions would not skip, or would skip past what the model is made for."""
    assert stage.pose is not None
    target = stage.pose.target
    if target <= stage.sequence_length:
        raise JaxptError(f"{where} is {target}, it must be above the stage's sequence_length ({stage.sequence_length})")
    if target > model.max_positions:
        rope = where.replace("pose.target", "rope.max_positions")
        raise JaxptError(f"{where} is {target}, the model has {model.max_positions} positions; set --{rope}={target}")


def check_source(where: str, path: str, source: SourceFacts, model: ModelConfig, tokenizer: Tokenizer | None) -> None:
    """Raises a JaxptError where a source does not go with the model or the tokenizer."""
    if source.rows == 0:
        raise JaxptError(f"{where}: {path} has no rows; pack more text or remove the source")
    if source.vocab_size > model.vocab_size:
        raise JaxptError(
            f"{where}: {path} has token ids up to {source.vocab_size - 1}, the model's vocabulary has "
            f"{model.vocab_size} entries; set --config.model.vocab_size={source.vocab_size} or tokenize again"
        )
    if tokenizer is not None and not accepts(tokenizer, source.tokenizer_fingerprint, f"{where}: {path}"):
        raise JaxptError(
            f"{where}: {path} was packed with tokenizer {source.tokenizer_fingerprint[:12]}, this run's is "
            f"{tokenizer.fingerprint[:12]}; tokenize again, or set "
            f"--config.tokenizer to the one it was packed with (left out, it is the one that the source carries)"
        )


def check_disk(workdir: Path, model: ModelConfig, optimizer: BuiltOptimizer, keep: int, extra: int = 0) -> None:
    """Raises a JaxptError where the disk cannot hold `keep + 1` checkpoints of float32 parameters and their state.

    `extra` is the bytes of what an objective trains besides, with its state.
    """
    need = (4 * param_count(model) + optimizer.state_bytes + extra) * (keep + 1)
    folder = next(f for f in (workdir.absolute(), *workdir.absolute().parents) if f.is_dir())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise JaxptError(
            f"{workdir}: {free / 2**20:,.1f} MiB free, {keep + 1} checkpoints take {need / 2**20:,.1f} MiB; free "
            f"space, lower --config.checkpoint.keep or choose another --workdir"
        )
