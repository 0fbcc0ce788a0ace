"""The caches of teacher targets that a stage reads: opened, and checked against its sources and its teacher."""

from collections.abc import Mapping

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.data.packed import PackedSource
from jaxpt.data.source_targets import SourceTargets
from jaxpt.data.target_cache import TargetCache
from jaxpt.errors import JaxptError, nearest
from jaxpt.training.run_plan import RunPlan, StagePlan
from jaxpt.training.starting_point import open_start


def open_targets(stage: StagePlan, sources: Mapping[str, PackedSource], where: str) -> SourceTargets | None:
    """Returns what comes with the rows of a stage; None where its objective reads no cache.

    Args:
        stage: the stage.
        sources: of the run, in the order of `source_id`.
        where: the config key of the stage, for messages.

    Raises:
        JaxptError: no cache for a source in use; a cache of other rows, another temperature or another teacher;
            positions that skip, which the teacher did not see.
    """
    wanted = stage.config.objective.cached_targets()
    if wanted is None:
        return None
    key = f"{where}.objective.cache"
    if stage.config.pose is not None:
        raise JaxptError(
            f"{key}: the teacher saw each row's own positions, {where}.pose lets them skip; distil with the teacher at "
            f"hand (no cache), or leave pose out"
        )
    for name in wanted.caches:
        if name not in sources:
            raise JaxptError(f"{key}.{name}: there is no source {name!r}{nearest(name, sources)}")
    used = [name for name, weight in stage.weights.items() if weight > 0]
    for name in used:
        if name not in wanted.caches:
            raise JaxptError(
                f"{key} has none for source {name}, which the stage uses; write one: jaxpt distill-cache "
                f"--teacher=MODEL --source={sources[name].path}"
            )
    try:
        targets = SourceTargets({name: TargetCache.open(wanted.caches[name]) for name in used}, sources)
    except JaxptError as error:
        raise JaxptError(f"{key}: {error}") from error
    if targets.temperature != wanted.temperature:
        raise JaxptError(
            f"{where}.objective.temperature is {wanted.temperature:g}, the caches have {targets.temperature:g}; set "
            f"temperature.start={targets.temperature:g}, or write them again with --temperature={wanted.temperature:g}"
        )
    if wanted.teacher is not None:
        _check_teacher(wanted.teacher, targets, where)
    return targets


def _check_teacher(path: str, targets: SourceTargets, where: str) -> None:
    cache = next(iter(targets.caches.values()))
    digest = open_start(path, "params", f"{where}.objective.teacher").digest
    if digest != cache.facts["teacher"]:
        raise JaxptError(
            f"{where}.objective.teacher: {cache.path} was written by another model ({cache.facts['teacher_name']}, "
            f"{cache.facts['teacher'][:12]}) than {path} ({digest[:12]}); write it again, or leave teacher out"
        )


def targets_of(plan: RunPlan, step: int) -> list[SourceTargets | None]:
    """Returns what comes with the rows of each stage, None where it is over at `step`; raises as `open_targets`."""
    return [
        open_targets(stage, plan.sources, f"config.stages[{stage.index}]") if stage.stop > step else None
        for stage in plan.stages
    ]


def check_same(saved: RunItem, fingerprints: Mapping[str, Mapping[str, str]]) -> None:
    """Raises a JaxptError where a stage would go on with other targets than it began with.

    Args:
        saved: the checkpoint.
        fingerprints: of each stage's caches, by the stage's name and by source.
    """
    for stage, before in saved.get("targets", {}).items():
        now = fingerprints.get(stage, {})
        for name in before.keys() & now.keys():
            if before[name] != now[name]:
                raise JaxptError(
                    f"stage {stage}: the cache of source {name} is not the one that this run began with (content "
                    f"{now[name][:12]}, was {before[name][:12]}); restore it, or begin another run"
                )
