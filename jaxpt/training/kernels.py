"""Which attention kernels a run takes: chosen by what they refuse, and compared with the reference before step one.

What was measured is remembered in the cache's folder `kernels`, by everything that it depends on.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxpt.cli.version import VERSION
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.kernels import attention as room
from jaxpt.kernels.attention import PREFERENCES, Call, Logits, choose, parse_preference
from jaxpt.kernels.attention.comparison import Comparison, compare
from jaxpt.models.attention_calls import attention_calls, describe_choice
from jaxpt.models.config import ModelConfig
from jaxpt.sharding import text_of_first
from jaxpt.training.active_run import Log
from jaxpt.training.run_plan import RunPlan, StagePlan

Calls = dict[tuple[Call, Logits], list[int]]


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
        with jax.set_mesh(mesh):
            models = {"": stage.model, **_frozen(plan, stage)}
            calls = {name: _calls(stage, model) for name, model in models.items()}
        every = {pair: layers for of_model in calls.values() for pair, layers in of_model.items()}
        names = _kept(stage, every, folder, log)
        attention = stage.step.compute.attention if names is None else ",".join(names)
        compute = replace(stage.step.compute, attention=attention)
        stages[i] = replace(stage, step=replace(stage.step, compute=compute))
        for name, of_model in calls.items():
            for line in _lines(of_model, parse_preference(attention), name):
                if line not in said:
                    log(line)
                said.add(line)
    return replace(plan, stages=tuple(stages))


def kernel_lines(plan: RunPlan, stage: StagePlan, mesh: Mesh) -> list[str]:
    """Returns a line for each different call of attention of a stage: what computes it on `mesh`, and why."""
    with jax.set_mesh(mesh):
        models = {"": stage.model, **_frozen(plan, stage)}
        names = parse_preference(stage.step.compute.attention)
        return [line for name, model in models.items() for line in _lines(_calls(stage, model), names, name)]


def _frozen(plan: RunPlan, stage: StagePlan) -> dict[str, ModelConfig]:
    paths = stage.config.objective.frozen()
    return {name: plan.frozen_models[path] for name, path in paths.items() if path in plan.frozen_models}


def _calls(stage: StagePlan, model: ModelConfig) -> Calls:
    rows = max(1, stage.config.batch_size // stage.config.microbatches)
    return attention_calls(model, stage.step.compute, rows, stage.config.sequence_length)


def _lines(calls: Calls, names: tuple[str, ...], model: str) -> list[str]:
    of = f"{model}: " if model else ""
    return [of + describe_choice(call, layers, names) for (call, _), layers in calls.items()]


def _kept(stage: StagePlan, calls: Calls, folder: Path, log: Log) -> tuple[str, ...] | None:
    """Returns the names that are left of a stage's preference, None where none of them is wrong."""
    compute = stage.step.compute
    named = parse_preference(compute.attention)
    if not compute.compare_kernels:
        return None
    length = stage.config.sequence_length
    platform = next(iter(calls))[0].platform
    names = named or tuple(p.name for p in PREFERENCES[platform] if length >= p.least)
    wrong: dict[str, str] = {}
    while True:
        left = tuple(name for name in names if name not in wrong)
        if not left:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            raise JaxptError(
                f"config.compute.attention={compute.attention} is refused: {reasons}; set it to auto or xla"
            )
        used = {(choose(call, left).name, call, logits) for call, logits in calls}
        found = _wrong(sorted((u for u in used if u[0] != "xla"), key=str), folder)
        if not found:
            return left if wrong else None
        for name, reason in found.items():
            log(f"attention: {name} is not used: {reason}")
        wrong |= found


def _wrong(used: list[tuple[str, Call, Logits]], folder: Path) -> dict[str, str]:
    """Returns the kernels that are wrong, with the reason; process 0 decides for all."""
    reasons: dict[str, str] = {}
    if jax.process_index() == 0:
        for name, call, logits in used:
            if name not in reasons and (reason := verdict(name, call, logits, folder)) is not None:
                reasons[name] = reason
    agreed: dict[str, str] = json.loads(text_of_first(json.dumps(reasons)))
    return agreed


def verdict(name: str, call: Call, logits: Logits, folder: Path) -> str | None:
    """Returns why the kernel `name` is wrong at `call` on this machine, None where it is right; remembered."""
    facts = _facts(name, call, logits)
    file = folder / "kernels" / f"{canonical_digest(facts)[:32]}.json"
    known = _read(file, facts)
    if known is not None:
        return known["reason"]
    try:
        comparison = compare(name, call, logits)
    except Exception as e:  # a compiler's or a driver's: not remembered, as it may have been the moment's
        return f"it fails ({type(e).__name__}: {(str(e).strip().splitlines() or [''])[0][:160]})"
    _write(file, facts, comparison)
    return comparison.reason


def _facts(name: str, call: Call, logits: Logits) -> dict[str, Any]:
    one_group = replace(call, batch=1, heads=call.heads // call.kv_heads, kv_heads=1)
    source = hashlib.sha256()
    for file in sorted(Path(str(room.__file__)).parent.glob("*.py")):
        source.update(file.read_bytes())
    return {
        "kernel": name,
        **asdict(one_group),
        "versions": dict(call.versions),
        "scale": logits.scale,
        "jaxpt": VERSION,
        "source": source.hexdigest(),
    }


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
