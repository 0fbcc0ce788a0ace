"""The masks that a run of mask training has learned, read from one of its checkpoints."""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxpt.checkpoints.checkpoints import model_of, read_run, read_state
from jaxpt.checkpoints.run_files import WAY_OUT
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.files.digests import read_json
from jaxpt.models.specs import flatten, unflatten
from jaxpt.objectives.shear import MaskTraining
from jaxpt.reshape.masks import HostGates
from jaxpt.training.config import RunConfig
from jaxpt.training.history import read_legs


@dataclass(frozen=True)
class LearnedMasks:
    """What a checkpoint says of masks, by axis, in the layout of `jaxpt.models.masks`.

    `soft` are the gates without anything random, `final` those that a cut would leave with their exact counts. `line`
    says by how much a budget is missed, None where it is met; `share` is how much of the mask training was done;
    `tokens` and `flops` are what the run took until then.
    """

    soft: HostGates = field(repr=False)
    final: HostGates = field(repr=False)
    line: str | None
    share: float
    tokens: int
    flops: float


def learned_masks(run: Path, step: int) -> LearnedMasks:
    """Reads the gates of checkpoint `step` of `run`, verified, and finalises them.

    Raises:
        JaxptError: the stage that the checkpoint is of trained no masks; a damaged checkpoint or config.
    """
    facts = read_run(run, step)
    stages = build(RunConfig, read_json(run, "config.json", dict, WAY_OUT)).stages
    legs = read_legs(facts, stages)
    stage = next((s for s in stages if legs and s.name == legs[-1].stage), stages[0])
    if not isinstance(stage.objective, MaskTraining):
        raise JaxptError(
            f"{run / 'checkpoints' / str(step)} holds no masks: its stage {stage.name} has the objective "
            f"{stage.objective.name}; give a checkpoint of a stage with objective.name=shear"
        )
    one = SingleDeviceSharding(jax.local_devices()[0])
    leaves = {
        path: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=one)
        for path, (dtype, *shape) in facts["extra"].items()
    }
    items = read_state(run, step, {"extra": unflatten(leaves)}, facts)
    values = flatten(items["extra"])
    extra = {p.removeprefix("values/"): np.asarray(v) for p, v in values.items() if p.startswith("values/")}
    done = sum(leg.steps for leg in legs if leg.stage == stage.name)
    share = min(1.0, done / max(1, stage.steps))
    final, line = stage.objective.masks(model_of(facts), extra, share)
    return LearnedMasks(stage.objective.still(extra), final, line, share, facts["tokens"], facts.get("flops", 0.0))
