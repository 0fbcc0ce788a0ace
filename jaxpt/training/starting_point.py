"""Where a run's first parameters come from: a bundle, another run's checkpoint, or a Hugging Face directory."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpt.bundles import open_bundle
from jaxpt.data.ledger import Ledger
from jaxpt.errors import JaxptError
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.interop.importing import has_tokenizer, lineage_entry, read_params
from jaxpt.models.config import ModelConfig
from jaxpt.optim.optimizers import Optimizer
from jaxpt.training.checkpoints import finished_steps, read_model, read_run, read_state
from jaxpt.training.state import Layout, State, abstract_state, new_opt_state, state_shardings


@dataclass(frozen=True)
class StartingPoint:
    """A model to start from. `state(layout, optimizer)` makes the first state, sharded as it is read."""

    model: ModelConfig
    tokenizer_path: Path | None
    lineage: list[dict[str, Any]]
    state: Callable[[Layout, Optimizer], State]
    found: str  # one line for the person watching
    ledger: list[dict[str, Any]] = field(default_factory=list)  # rows that the run it comes from has used


def open_start(path: str, load: str) -> StartingPoint:
    """Says what `path` is and opens it.

    Args:
        path: a bundle, a run directory (its newest checkpoint) or `RUN/checkpoints/STEP`, or a Hugging Face directory.
        load: "params", or "params+optimizer" to take the moments of a run along (other kinds have none).

    Raises:
        JaxptError: nothing there that can be read.
    """
    here = Path(path)
    run, step = (here.parents[1], int(here.name)) if here.parent.name == "checkpoints" else (here, None)
    if (run / "checkpoints").is_dir():
        return _from_run(run, step, load)
    if (here / "model.json").exists():
        return _from_bundle(here)
    if (here / "config.json").exists():
        return _from_hugging_face(here)
    raise JaxptError(
        f"config.init_from: {path} is no bundle (model.json), run directory (checkpoints/) or Hugging Face directory "
        f"(config.json with *.safetensors)"
    )


def _fresh(layout: Layout, optimizer: Optimizer, params: Any) -> State:
    shardings = state_shardings(layout, optimizer, params)
    return {"params": params, "opt_state": new_opt_state(optimizer, params, shardings)}


def _from_bundle(path: Path) -> StartingPoint:

    bundle = open_bundle(path)

    def state(layout: Layout, optimizer: Optimizer) -> State:
        return _fresh(layout, optimizer, bundle.params(dtype="float32", shardings=layout.params))

    tokenizer = path / "tokenizer"
    ledger = ledger_of(bundle.lineage).to_json()
    kept = tokenizer if tokenizer.exists() else None
    return StartingPoint(bundle.config, kept, list(bundle.lineage), state, f"bundle {path}", ledger)


def ledger_of(lineage: Sequence[Mapping[str, Any]]) -> Ledger:
    """Returns the rows that all the runs in a lineage have used."""
    return Ledger.from_json(used for entry in lineage for used in entry.get("ledger", []))


def _from_run(run: Path, step: int | None, load: str) -> StartingPoint:
    steps = finished_steps(run)
    if not steps or (step is not None and step not in steps):
        raise JaxptError(f"config.init_from: {run} has no finished checkpoint{'' if step is None else f' {step}'}")
    chosen = steps[-1] if step is None else step
    model = read_model(run, chosen)
    with_moments = load == "params+optimizer"

    def state(layout: Layout, optimizer: Optimizer) -> State:
        abstract = abstract_state(model, optimizer, layout)
        if with_moments:
            return read_state(run, chosen, abstract)
        return _fresh(layout, optimizer, read_state(run, chosen, {"params": abstract["params"]})["params"])

    before = json.loads((run / "lineage.json").read_text(encoding="utf-8"))
    facts = read_run(run, chosen)
    entry = {"op": "train", "options": {"run": str(run)}, "steps": chosen, "tokens": facts["tokens"]}
    tokenizer = run / "tokenizer"
    what = "parameters and moments" if with_moments else "parameters"
    found = f"checkpoint {chosen} of run {run} ({what})"
    path = tokenizer if tokenizer.exists() else None
    return StartingPoint(model, path, [*before, entry], state, found, facts.get("ledger", []))


def _from_hugging_face(path: Path) -> StartingPoint:
    checkpoint = HuggingFaceCheckpoint(path)

    def state(layout: Layout, optimizer: Optimizer) -> State:
        return _fresh(layout, optimizer, read_params(checkpoint, "float32", layout.params))

    found = f"Hugging Face directory {path} ({checkpoint.family.model_type})"
    tokenizer = path if has_tokenizer(path) else None
    return StartingPoint(checkpoint.config, tokenizer, [lineage_entry(checkpoint)], state, found)
