"""Which kernels a run takes for attention, experts and other products: by what they refuse, compared before step one.

What was measured is remembered in the cache's folder `kernels`, by everything that it depends on.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxpt.cli.version import VERSION
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.kernels import attention, exchange, grouped, matmul
from jaxpt.kernels.attention import comparison as attention_comparison
from jaxpt.kernels.comparison import Comparison
from jaxpt.kernels.exchange import comparison as exchange_comparison
from jaxpt.kernels.grouped import comparison as grouped_comparison
from jaxpt.kernels.matmul import comparison as matmul_comparison
from jaxpt.models.attention_calls import attention_calls, describe_choice
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.expert_calls import (
    describe_exchange_choice,
    describe_expert_choice,
    exchange_calls,
    expert_calls,
)
from jaxpt.models.matmul_calls import describe_matmul_choice, matmul_calls
from jaxpt.sharding import text_of_first
from jaxpt.training.active_run import Log
from jaxpt.training.run_plan import RunPlan, StagePlan

KernelRequest = tuple[Any, ...]  # of one product or one attention: the call first, and what else its comparison needs
Calls = dict[KernelRequest, list[int]]


@dataclass(frozen=True)
class KernelKind:
    """Kernels of one kind: the option of `compute` that chooses among them, what they are compared with, by what.

    `reference` is the one that is not compared, None where each is. What all devices compute `together` is compared on
    the whole mesh, by every process.
    """

    option: str
    reference: str | None
    room: Any
    compare: Callable[..., Comparison]
    facts: Callable[..., dict[str, Any]]
    describe: Callable[[Any, Sequence[int], Sequence[str]], str]
    calls: Callable[[ModelConfig, Compute, int, int], Mapping[Any, list[int]]]
    together: bool = False

    def names(self, value: str) -> tuple[str, ...]:
        """Returns the kernels that an option names, () for "auto"."""
        names: tuple[str, ...] = self.room.parse_preference(value)
        return names

    def chosen(self, compute: Compute, names: Sequence[str]) -> Compute:
        """Returns `compute` with these kernels, the first that applies."""
        changes: dict[str, Any] = {self.option: ",".join(names)}
        return replace(compute, **changes)


ATTENTION = KernelKind(
    "attention",
    "xla",
    attention,
    attention_comparison.compare,
    attention_comparison.facts,
    describe_choice,
    attention_calls,
)
EXPERTS = KernelKind(
    "grouped_matmul",
    "dense",
    grouped,
    grouped_comparison.compare,
    grouped_comparison.facts,
    describe_expert_choice,
    expert_calls,
)
EXCHANGE = KernelKind(
    "expert_exchange",
    None,
    exchange,
    exchange_comparison.compare,
    exchange_comparison.facts,
    describe_exchange_choice,
    exchange_calls,
    together=True,
)
MATMULS = KernelKind(
    "matmul",
    "plain",
    matmul,
    matmul_comparison.compare,
    matmul_comparison.facts,
    describe_matmul_choice,
    matmul_calls,
)
KINDS = (ATTENTION, EXPERTS, EXCHANGE, MATMULS)


def with_kernels(plan: RunPlan, mesh: Mesh, folder: Path, log: Log) -> RunPlan:
    """Returns `plan` without the kernels that are wrong on this machine; logs which each stage takes and why.

    Args:
        plan: a checked run.
        mesh: the devices it runs on; the comparison is made on one of this process's.
        folder: of the cache; what was measured before is not measured again.
        log: receives lines.

    Raises:
        JaxptError: a kernel that was asked for by name is wrong or does not apply, and no other was named.
    """
    stages = list(plan.stages)
    said: set[str] = set()
    for i, stage in enumerate(plan.stages):
        compute = stage.step.compute
        for kind, calls in _calls(plan, stage, mesh):
            every = {request: layers for of_model in calls.values() for request, layers in of_model.items()}
            kept = _kept(kind, stage, every, mesh, folder, log) if every else None
            if kept is not None:
                compute = kind.chosen(compute, kept)
            for line in _lines(kind, calls, kind.names(getattr(compute, kind.option))):
                if line not in said:
                    log(line)
                said.add(line)
        stages[i] = replace(stage, step=replace(stage.step, compute=compute))
    return replace(plan, stages=tuple(stages))


def kernel_lines(plan: RunPlan, stage: StagePlan, mesh: Mesh) -> list[str]:
    """Returns a line for each different call of a kernel in a stage: what computes it on `mesh`, and why."""
    compute = stage.step.compute
    return [
        line
        for kind, calls in _calls(plan, stage, mesh)
        for line in _lines(kind, calls, kind.names(getattr(compute, kind.option)))
    ]


def _calls(plan: RunPlan, stage: StagePlan, mesh: Mesh) -> list[tuple[KernelKind, dict[str, Calls]]]:
    """Returns the calls of each kind by model: "" is the one that is trained, frozen ones have names."""
    paths = stage.config.objective.frozen()
    frozen = {name: plan.frozen_models[path] for name, path in paths.items() if path in plan.frozen_models}
    rows, length = max(1, stage.config.batch_size // stage.config.microbatches), stage.config.sequence_length
    found: list[tuple[KernelKind, dict[str, Calls]]] = []
    with jax.set_mesh(mesh):
        models = {"": (stage.model, stage.step.compute)}
        models |= {name: (model, stage.step.compute.unquantised) for name, model in frozen.items()}
        for kind in KINDS:
            calls = {name: dict(kind.calls(*model, rows, length)) for name, model in models.items()}
            found.append((kind, calls))
    return found


def _lines(kind: KernelKind, calls: Mapping[str, Calls], names: tuple[str, ...]) -> list[str]:
    return [
        (f"{model}: " if model else "") + kind.describe(request[0], layers, names)
        for model, of_model in calls.items()
        for request, layers in of_model.items()
    ]


def _kept(
    kind: KernelKind, stage: StagePlan, calls: Calls, mesh: Mesh, folder: Path, log: Log
) -> tuple[str, ...] | None:
    """Returns the names that are left of a stage's preference, None where none of them is wrong."""
    compute = stage.step.compute
    value = getattr(compute, kind.option)
    if not compute.compare_kernels:
        return None
    length = stage.config.sequence_length
    platform = next(iter(calls))[0].platform
    names = kind.names(value) or tuple(p.name for p in kind.room.PREFERENCES[platform] if length >= p.least)
    wrong: dict[str, str] = {}
    while True:
        left = tuple(name for name in names if name not in wrong)
        if not left:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            way_out = f"set it to auto or {kind.reference}" if kind.reference else "train with sharding.mesh.expert=1"
            raise JaxptError(f"config.compute.{kind.option}={value} is refused: {reasons}; {way_out}")
        used = {(kind.room.choose(request[0], left).name, request) for request in calls}
        found = _wrong(kind, sorted((u for u in used if u[0] != kind.reference), key=str), mesh, folder)
        if not found:
            return left if wrong else None
        for name, reason in found.items():
            log(f"{kind.option}: {name} is not used: {reason}")
        wrong |= found


def _wrong(kind: KernelKind, used: list[tuple[str, KernelRequest]], mesh: Mesh, folder: Path) -> dict[str, str]:
    """Returns the kernels that are wrong, with the reason; process 0 decides for all."""
    reasons: dict[str, str] = {}
    if kind.together or jax.process_index() == 0:
        for name, request in used:
            if name not in reasons and (reason := verdict(kind, name, request, folder, mesh)) is not None:
                reasons[name] = reason
    agreed: dict[str, str] = json.loads(text_of_first(json.dumps(reasons)))
    return agreed


def verdict(kind: KernelKind, name: str, request: KernelRequest, folder: Path, mesh: Mesh | None = None) -> str | None:
    """Returns why the kernel `name` is wrong at `request` on this machine, None where it is right; remembered.

    What is computed `together` is asked by every process, with the mesh.
    """
    facts = _facts(kind, name, request)
    file = folder / "kernels" / f"{canonical_digest(facts)[:32]}.json"
    known = _read(file, facts)
    if kind.together:
        known = json.loads(text_of_first(json.dumps(known)))  # all measure, or none
    if known is not None:
        reason: str | None = known["reason"]
        return reason
    try:
        with jax.set_mesh(mesh) if kind.together and mesh is not None else nullcontext():
            comparison = kind.compare(name, *request)
    except Exception as e:  # a compiler's or a driver's: not remembered, as it may have been the moment's
        return f"it fails ({type(e).__name__}: {(str(e).strip().splitlines() or [''])[0][:160]})"
    if jax.process_index() == 0:
        _write(file, facts, comparison)
    return comparison.reason


def _facts(kind: KernelKind, name: str, request: KernelRequest) -> dict[str, Any]:
    source = hashlib.sha256()
    for file in sorted(Path(str(kind.room.__file__)).parent.glob("*.py")):
        source.update(file.read_bytes())
    facts = {"kind": kind.option, "kernel": name, "jaxpt": VERSION, "source": source.hexdigest()}
    return {**facts, **kind.facts(*request), "versions": dict(request[0].versions)}


def _read(file: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and kept.get("facts") == facts and "reason" in kept else None


def _write(file: Path, facts: Mapping[str, Any], comparison: Comparison) -> None:
    text = json.dumps({"facts": facts, **dataclasses.asdict(comparison)}, indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{jax.process_index()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return  # a cache that cannot be written costs a comparison
