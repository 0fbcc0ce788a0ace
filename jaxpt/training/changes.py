"""What a changed config asks of a run that goes on, where what is past decides otherwise; and jumps of its rate."""

import math

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.config.duration import steps_of_earlier_versions
from jaxpt.training import history
from jaxpt.training.reached import Outline, new_segment
from jaxpt.training.run_plan import RunPlan, StagePlan


def changes(plan: RunPlan, saved: RunItem) -> list[str]:
    """Returns a line for each thing that the config asks for and that the past decides otherwise, and for a jump of the
    learning rate where the run goes on.

    Args:
        plan: the run, continued from the checkpoint.
        saved: the `run` item of the checkpoint.
    """
    step, lines = saved["step"], []
    first_parts = {s.index: s for s in reversed(plan.stages)}
    begun = [s for _, s in sorted(first_parts.items()) if s.first < step]
    for i, stage in enumerate(begun):
        mine = [leg for leg in plan.past if leg.stage == stage.config.name]
        key, name = f"config.stages[{i}].duration={stage.config.duration!r}", stage.config.name
        size = f"{step - stage.first:,} steps and {sum(leg.tokens for leg in mine):,} tokens"
        if i < len(begun) - 1:
            before = saved.get("durations", {}).get(name)
            steps = sum(leg.steps for leg in mine)
            if before != stage.config.duration if before else steps != stage.config.steps:
                lines.append(f"{key} has no effect: stage {name} is done, from step {stage.first} to {stage.stop}")
        elif (line := _counted_anew(key, stage, saved)) is not None:
            lines.append(line)
        elif sum(steps for _, steps in history.left(plan.config.stages[i], mine)) < 0:
            then = f"stage {first_parts[i + 1].config.name} begins" if i + 1 in first_parts else "nothing is left"
            lines.append(f"{key} is less than what was trained of stage {name} ({size}): it ends here, and {then}")
        elif (line := new_segment(i, _outline(stage), saved)) is not None:
            lines.append(line)
    planned = saved.get("learning_rate_next")
    if planned is not None and step < plan.steps:
        now = plan.stages[plan.stage_of(step)].rate(step)
        if not math.isclose(now, planned, rel_tol=1e-6):
            lines.append(
                f"the learning rate jumps: at step {step} it is {now:.6g}, the checkpoint's plan had {planned:.6g}"
            )
    return lines


def _outline(stage: StagePlan) -> Outline:
    return Outline(stage.config, stage.whole, (), stage.schedule, stage.peak, stage.since)


def _counted_anew(key: str, stage: StagePlan, saved: RunItem) -> str | None:
    """Returns a line where the stage in progress ends elsewhere than the version planned that wrote the checkpoint."""
    name, size = stage.config.name, stage.config.tokens_per_step
    if stage.config.batch_ramp:
        return None
    before = steps_of_earlier_versions(stage.config.duration, size)
    if saved.get("exact_durations") or saved.get("durations", {}).get(name) != stage.config.duration:
        return None
    if before is None or before == stage.config.steps:
        return None
    return (
        f"{key} is {stage.config.steps:,} steps, counted exactly; the version that wrote the checkpoint counted "
        f"{before:,}: stage {name} now ends at step {stage.whole[1]:,}"
    )
