"""A plan as a person reads it before step one: its stages, and the mixture of each."""

import math
from collections.abc import Mapping

from jaxpt.cli.terminal import table
from jaxpt.data.weights import flat_weights
from jaxpt.models.mup import Scaling
from jaxpt.models.specs import flatten, param_specs
from jaxpt.objectives.objective import Objective
from jaxpt.optim.curve import ends_of
from jaxpt.optim.multipliers import Multipliers, multipliers
from jaxpt.training.run_plan import RunPlan, SourceFacts, StagePlan, stated


def overview(plan: RunPlan) -> str:
    """Returns the stages and the mixtures of `plan` as tables, and what µP multiplies where it has a base shape."""
    parts = [stages(plan), mixtures(plan), *([multiplied(plan, plan.scaling)] if plan.scaling else [])]
    return "\n\n".join(parts) + "\n"


def multiplied(plan: RunPlan, scaling: Scaling) -> str:
    """Returns a line per group of parameters that µP treats alike, and what it multiplies there."""
    groups: dict[Multipliers, list[str]] = {}
    for path, spec in flatten(param_specs(plan.model)).items():
        groups.setdefault(multipliers(spec, plan.config.optimizer.update_size(spec), scaling), []).append(path)
    head = ["µP: multiplied are", "learning rate", "weight decay", "ε"]
    names = lambda paths: ", ".join(dict.fromkeys(path.rpartition("/")[2] for path in paths))  # noqa: E731
    return table(head, [[names(paths), *map(float, of)] for of, paths in groups.items()])


def stages(plan: RunPlan) -> str:
    """Returns a line per stage: its size, its learning rate, and what is special about it."""
    head = ["stages", "steps", "tokens", "FLOPs", "batch size", "sequence length", "learning rate", "over steps", ""]
    rows = []
    for stage in plan.stages:
        config, rate, shapes = stage.config, "done", ""
        if stage.schedule:
            end, steps = stage.rate(stage.whole[1]), stage.whole[1] - stage.whole[0]
            rate = f"{stage.peak:g}" if math.isclose(end, stage.peak) else f"{stage.peak:g} to {end:g}"
            shapes = ", ".join(f"{n:,} {shape}" for shape, n in ends_of(stage.schedule.segments, steps) if n)
        tokens = plan.tokens_at(stage.stop) - plan.tokens_at(stage.first)
        flops = f"{tokens * plan.flops_per_token(stage):.3g}"
        size = [stage.stop - stage.first, tokens, flops, config.batch_size, config.sequence_length]
        rows.append([config.name, *size, rate, shapes, "; ".join(_special(stage, plan))])
    return table(head, rows)


def mixtures(plan: RunPlan) -> str:
    """Returns a line per source: its share of each stage in per cent, of rows or of tokens as the stage counts."""
    stages = list({s.index: s for s in plan.stages}.values())
    parts = [_shares(stage, plan.sources) for stage in stages]
    head = ["mixture in %", *(f"{s.config.name}, of {s.config.mixture_unit}" for s in stages)]
    rows = [[name, *(100 * p[name] if p.get(name) else "" for p in parts)] for name in plan.sources]
    lines = [table(head, rows)]
    for stage in stages:
        total = sum(flat_weights(stage.config.mixture, {n: s.rows for n, s in plan.sources.items()}).values())
        if not math.isclose(total, 1, rel_tol=1e-6):
            name = stage.config.name
            lines.append(f"{name}: the weights given sum to {total:g}; each counts as its part of that")
    return "\n".join(lines)


def _shares(stage: StagePlan, sources: Mapping[str, SourceFacts]) -> dict[str, float]:
    weights = dict(stage.weights)
    if stage.config.mixture_unit == "tokens":
        weights = {n: w * sources[n].tokens / sources[n].rows for n, w in weights.items()}
    total = sum(weights.values())
    return {n: w / total for n, w in weights.items()}


def _special(stage: StagePlan, plan: RunPlan) -> list[str]:
    """What of a stage is not the usual."""
    c, out = stage.config, []
    if stage.index and c.load == "params":
        out.append("moments start at zero")
    if c.freeze:
        out.append(f"frozen: {', '.join(c.freeze)}")
    if c.rope is not None:
        out.append("rope: " + ", ".join(f"{k}={v}" for k, v in stated(c.rope).items()))
    if c.pose is not None:
        out.append(f"positions skip up to {c.pose.target:,}")
    if c.reweight.every:
        out.append(f"weights follow the losses every {c.reweight.every}")
    if c.objective.name != Objective.default:
        out.append(f"objective: {c.objective.name}")
    out += c.objective.describe()
    for name, path in c.objective.frozen().items():
        out.append(f"frozen model {name}: {plan.frozen.get(path, {}).get('path', path)}")
    if plan.frozen_share(stage) > 0:
        out.append(f"frozen models take {plan.frozen_share(stage):.1%} of the FLOPs")
    return out
