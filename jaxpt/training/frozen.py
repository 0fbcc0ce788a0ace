"""The models that an objective reads and does not train: opened by their paths, laid out by their own axis tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from jaxpt import tokenizers
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.checkpoints.verdict import UNKNOWN, WHOLE, ReadVerdict, agreed
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params, Tree
from jaxpt.models.specs import map_specs, param_specs
from jaxpt.objectives.objective import ANCESTOR, PARENT, FrozenFacts, Objective
from jaxpt.tokenizers import Tokenizer
from jaxpt.training.config import StageConfig
from jaxpt.training.run_plan import RunPlan
from jaxpt.training.starting_point import StartingPoint, open_start
from jaxpt.training.state import Layout, with_shardings

Pins = Mapping[str, Mapping[str, str]]  # by the path of a frozen model: the exact `path` and the `digest` of its start
NO_PINS: Pins = {}


def open_frozen(objective: Objective, where: str = "objective", pins: Pins = NO_PINS) -> dict[str, StartingPoint]:
    """Opens the models of `objective.frozen()`, by name, without reading their parameters.

    Raises:
        JaxptError: a path where no model is, or another one than that which `pins` says; the message begins with
            `where`.
    """
    return {name: _open(path, f"{where}: {name}", pins.get(path)) for name, path in objective.frozen().items()}


def _open(path: str, where: str, pin: Mapping[str, str] | None) -> StartingPoint:
    if pin is None and path == ANCESTOR:
        name = where.rpartition(" ")[2]
        raise JaxptError(f"{where}: this run's model was not reshaped from another; give {name}=MODEL")
    if pin is None and path == PARENT:
        raise JaxptError(f"{where}: this run starts from no model; set config.init_from")
    if pin is None:
        return open_start(path, "params", where)
    if path == ANCESTOR:
        way = "it is what this run's model was reshaped from; put it back where it was, or give its path"
    else:
        way = f"this run began with {pin['path']} as it was; put that back, or begin in another --workdir"
    try:
        model = open_start(pin["path"], "params", where)
    except JaxptError as error:
        raise JaxptError(f"{where}: {str(error).removeprefix(f'{where}: ')}; {way}") from error
    if model.digest != pin["digest"] and pin["digest"]:
        raise JaxptError(f"{where}: {pin['path']} holds another model now; {way}")
    return model


def ancestor(lineage: Sequence[Mapping[str, Any]]) -> Pins:
    """Returns the pin of `ANCESTOR`: the model that the newest reshape of a lineage began with; none without one."""
    sources = [entry["source"] for entry in lineage if "source" in entry]
    return {ANCESTOR: sources[-1]} if sources else NO_PINS


def parent(start: StartingPoint | None, path: str | None) -> Pins:
    """Returns the pin of `PARENT`: the model that a run starts from; none where it starts from nothing."""
    if start is None or path is None:
        return NO_PINS
    return {PARENT: {"path": start.exact or path, "digest": start.digest}}


def pin_frozen(
    stages: Sequence[StageConfig], saved: RunItem | None, known: Pins = NO_PINS, tokenizer: Tokenizer | None = None
) -> Pins:
    """Returns, by the paths of all frozen models of a run, which model each of them names from its first start on.

    A run directory is thus the checkpoint that was its newest then, whatever is trained in it meanwhile.

    Args:
        stages: of the run.
        saved: the `run` item of the checkpoint that it goes on from, whose pins hold.
        known: pins that hold where `saved` has none.
        tokenizer: the run's, which must be that of every frozen model that has one.

    Raises:
        JaxptError: a path where no model is; a model with another tokenizer; several hosts that do not see the same.
    """
    pins = {**known, **(saved.get("frozen", {}) if saved else {})}
    used: dict[str, Mapping[str, str]] = {}
    for i, stage in enumerate(stages):
        where = f"config.stages[{i}].objective"
        for name, model in open_frozen(stage.objective, where, pins).items():
            path = stage.objective.frozen()[name]
            if path not in used:
                _check_tokenizer(f"{where}: {name}", pins.get(path, {}).get("path", path), model, tokenizer)
            used.setdefault(path, pins.get(path, {"path": model.exact or path, "digest": model.digest}))
            pins[path] = used[path]
    seen = canonical_digest(used)
    alike = agreed(ReadVerdict(WHOLE, seen)).reason.endswith(seen)  # the text of process 0
    if agreed(ReadVerdict(WHOLE if alike else UNKNOWN)).kind != WHOLE:
        raise JaxptError(f"not all hosts see the same in {', '.join(pins)}; give a checkpoint: RUN/checkpoints/STEP")
    return pins


def with_frozen(plan: RunPlan, pins: Pins) -> RunPlan:
    """Returns the plan that knows which models its objectives read, and so what their forward passes cost."""
    models: dict[str, ModelConfig] = {}
    for i, stage in enumerate(plan.config.stages):
        paths = stage.objective.frozen()
        opened = open_frozen(stage.objective, f"config.stages[{i}].objective", pins)
        models |= {paths[name]: model.model for name, model in opened.items()}
    return replace(plan, frozen=pins, frozen_models=models)


def beside_frozen(
    stages: Sequence[StageConfig], model: ModelConfig, pins: Pins, lineage: Sequence[Mapping[str, Any]]
) -> tuple[StageConfig, ...]:
    """Returns stages whose objectives know what they must of the models that they read (`Objective.beside`).

    Args:
        stages: of the run.
        model: that is trained.
        pins: of all frozen models.
        lineage: of the model that is trained, which says how its layers follow from those of the ancestor.
    """
    out = []
    origin = ancestor(lineage).get(ANCESTOR, {}).get("digest")
    for i, stage in enumerate(stages):
        objective, facts = stage.objective, {}
        for name, opened in open_frozen(objective, f"config.stages[{i}].objective", pins).items():
            layers = origin_of_layers(lineage, len(opened.model.layers), len(model.layers))
            known = layers if origin and opened.digest == origin else None
            facts[name] = FrozenFacts(opened.model, known)
        out.append(replace(stage, objective=objective.beside(model, facts, f"config.stages[{i}].objective")))
    return tuple(out)


def origin_of_layers(lineage: Sequence[Mapping[str, Any]], before: int, after: int) -> tuple[int, ...] | None:
    """Returns for each of a model's `after` layers the one of the ancestor's `before` that it was made of.

    None where the lineage since the newest reshape began does not say it.
    """
    begun = [i for i, entry in enumerate(lineage) if "source" in entry]
    layers = tuple(range(before))
    for entry in lineage[begun[-1] :] if begun else ():
        if "layers" in entry:
            layers = tuple(layers[i] for i in entry["layers"] if i < len(layers))
        elif "drop" in (options := entry.get("options", {})):
            layers = tuple(layer for i, layer in enumerate(layers) if i not in options["drop"])
    return layers if begun and len(layers) == after else None


def _check_tokenizer(where: str, path: str, model: StartingPoint, tokenizer: Tokenizer | None) -> None:
    """Raises a JaxptError where a frozen model reads other tokens than the run gives it."""
    if tokenizer is None or model.tokenizer_path is None:
        return
    theirs = tokenizers.load(model.tokenizer_path).fingerprint
    if theirs != tokenizer.fingerprint:
        raise JaxptError(
            f"{where}: {path} has tokenizer {theirs[:12]}, this run's is {tokenizer.fingerprint[:12]}; the same token "
            f"must mean the same to both: choose another model, or text that it generates"
        )


def load_frozen(models: Mapping[str, StartingPoint], layout: Layout) -> dict[str, Params]:
    """Returns their parameters in their own dtypes, each device's part read by itself.

    Raises:
        JaxptError: damaged data.
    """
    return {name: m.params(layout.of(param_specs(m.model)), None) for name, m in models.items()}


def abstract_frozen(models: Mapping[str, StartingPoint], layout: Layout) -> dict[str, Tree[jax.ShapeDtypeStruct]]:
    """Returns shapes, dtypes and shardings of their parameters."""
    out: dict[str, Tree[jax.ShapeDtypeStruct]] = {}
    for name, m in models.items():
        specs = param_specs(m.model)
        shapes = map_specs(lambda path, s, m=m: jax.ShapeDtypeStruct(s.shape, m.dtypes.get(path, "float32")), specs)
        out[name] = with_shardings(shapes, layout.of(specs))
    return out
