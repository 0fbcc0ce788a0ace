"""The real train step, compiled by the TPU compiler for devices that are not there."""

import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding

from jaxpt.data.source_targets import SourceTargets
from jaxpt.errors import JaxptError
from jaxpt.models.batch import DistillBatch, kinds
from jaxpt.models.specs import param_specs
from jaxpt.optim.chain import BuiltOptimizer, make_optimizer
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import abstract_arguments
from jaxpt.training.cached_targets import open_targets
from jaxpt.training.config import StageConfig
from jaxpt.training.extra import make_extra
from jaxpt.training.frozen import abstract_frozen, open_frozen
from jaxpt.training.run_plan import RunPlan, StagePlan
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import Layout, State, abstract_state, make_layout
from jaxpt.training.step import make_step

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class CompiledStep:
    """A compiled step. Bytes are per device: `arguments` (state and batch), `aliased` (of them, updated in place),
    `temporary`, `peak`, `frozen` (of the arguments, the frozen models). `collectives` counts operations in the program,
    a loop's body once.
    """

    arguments: int
    aliased: int
    temporary: int
    peak: int
    frozen: int
    collectives: dict[str, int]
    state_shardings: State[NamedSharding]
    custom_kernels: int


def topology_devices(name: str) -> Sequence[jax.Device]:
    """Returns the devices of a TPU topology such as "v5e:4x4", without a TPU.

    Raises:
        JaxptError: libtpu is not installed, or it knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise JaxptError("compiling for a TPU needs libtpu; install jaxpt[tpu]")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not look for a cloud machine's metadata server
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # two compilations may run side by side
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # quiets the library; the name below decides
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as e:  # the plugin raises its own kinds
        reason = str(e).strip().split("\n")[0][:120]
        raise JaxptError(f"--topology={name} is not one this libtpu knows (form: v5e:4x4, v5p:2x2x4): {reason}") from e


def compile_step(plan: RunPlan, devices: Sequence[jax.Device], stage: int = 0) -> CompiledStep:
    """Compiles the train step of one stage for `devices`.

    Args:
        plan: a checked run; its mesh must fit the devices.
        devices: of a topology, or present ones.
        stage: which stage's step.

    Raises:
        JaxptError: the program does not fit the devices' memory (the compiler's own figures are in the message); where
            it would without the objective's frozen models, their size and the way out.
    """
    chosen = plan.stages[stage]
    layout = make_layout(plan.model, plan.config.sharding, devices)
    optimizer = make_optimizer(plan.config.optimizer, param_specs(plan.model), plan.scaling)
    return _compile(plan, chosen, layout, optimizer)


def _compile(plan: RunPlan, chosen: StagePlan, layout: Layout, optimizer: BuiltOptimizer) -> CompiledStep:
    objective = chosen.config.objective
    extra = make_extra(objective, chosen.model, f"stage {chosen.config.name}, objective").abstract(layout)
    safeguards, state = Safeguards.of(plan.config), abstract_state(plan.model, optimizer, layout)
    mean, guard = safeguards.abstract(layout, optimizer.specs, state.params)
    state = state._replace(extra=extra, mean=mean, guard=guard)
    frozen = open_frozen(objective, f"stage {chosen.config.name}, objective", plan.frozen)
    given = {name: model for name, model in frozen.items() if name not in chosen.step.own}
    arguments = abstract_arguments(objective, abstract_frozen(given, layout))
    targets = open_targets(chosen, plan.sources, f"stage {chosen.config.name}")
    batch = _abstract_batch(layout, chosen.config, targets)
    with jax.set_mesh(layout.mesh):
        spec = replace(chosen.step, objective=objective)
        models = {name: m.model for name, m in frozen.items()}
        step = make_step(spec, optimizer, layout, frozen=models, safeguards=safeguards)
        try:
            compiled = step.lower(state, batch, arguments).compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            exceeds = re.search(r"memory on HBM.*?\([\d.]+\w\) exceeds.*?\([\d.]+\w\)", str(e), re.DOTALL)
            figures = " ".join((exceeds.group(0) if exceeds else str(e)[:160]).split())
            way_out = "use more devices, --config.compute.remat=full or --config.stages[N].microbatches=M"
            alone = _alone(plan, chosen, layout, optimizer, device_bytes(arguments.frozen))
            raise JaxptError(
                f"stage {chosen.config.name} does not fit the memory of a device ({figures}); {alone or way_out}"
            ) from e
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    counts = Counter(re.findall(rf"\b({'|'.join(COLLECTIVES)})(?:-start)?\(", text))
    return CompiledStep(
        arguments=memory.argument_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        peak=getattr(memory, "peak_memory_in_bytes", 0),
        frozen=device_bytes(arguments.frozen),
        collectives=dict(counts),
        state_shardings=compiled.input_shardings[0][0],
        custom_kernels=text.count('custom_call_target="tpu_custom_call"'),
    )


def _alone(plan: RunPlan, chosen: StagePlan, layout: Layout, optimizer: BuiltOptimizer, frozen: int) -> str:
    """What to do where the stage would fit without the frozen models of its objective; "": it would not fit."""
    objective = chosen.config.objective
    without = objective.without_frozen() if frozen else None
    if without is None:
        return ""
    try:
        _compile(plan, replace(chosen, config=replace(chosen.config, objective=without[0])), layout, optimizer)
    except JaxptError:
        return ""
    names = " and ".join(objective.frozen())
    return f"it would without its {names}, {frozen / 2**20:,.0f} MiB a device beside the model: {without[1]}"


def device_bytes(arrays: Any) -> int:
    """Returns the bytes that a tree of abstract, sharded arrays takes on one device."""
    of_one = lambda a: math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize  # noqa: E731
    return sum(of_one(a) for a in jax.tree.leaves(arrays))


def _abstract_batch(
    layout: Layout, stage: StageConfig, targets: SourceTargets | None
) -> dict[str, jax.ShapeDtypeStruct]:
    where, of = batch_sharding(layout.mesh), kinds() if targets is None else kinds(DistillBatch)
    size = stage.batch_size, stage.sequence_length, 0 if targets is None else targets.width
    return {k: jax.ShapeDtypeStruct(v.shape(*size), v.dtype, sharding=where) for k, v in of.items()}
