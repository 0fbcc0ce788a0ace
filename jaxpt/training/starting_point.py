"""Where a run's first parameters come from: a bundle, another run's checkpoint, or a Hugging Face directory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxpt.bundles import open_bundle
from jaxpt.checkpoints.checkpoints import model_of, read_run, read_state
from jaxpt.checkpoints.newest import read_checkpoint, read_once
from jaxpt.checkpoints.run_files import has_tokenizer, read_lineage, stored_model
from jaxpt.data.ledger import Ledger
from jaxpt.errors import JaxptError
from jaxpt.interop import importing
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.interop.importing import lineage_entry, read_params
from jaxpt.models.config import ModelConfig
from jaxpt.optim.optimizers import Optimizer
from jaxpt.training.state import Layout, State, abstract_state, new_opt_state, state_shardings


@dataclass(frozen=True)
class StartingPoint:
    """A model to start from.

    `state(layout, optimizer)` makes the first state, sharded as it is read; it raises `Pruned` where it comes from the
    newest checkpoint of a run which has pruned that since.
    """

    model: ModelConfig
    tokenizer_path: Path | None
    lineage: list[dict[str, Any]]
    state: Callable[[Layout, Optimizer], State]
    description: str  # one line for the person watching
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
    named = here.parent.name == "checkpoints" and here.name.isdigit()
    run, step = (here.parents[1], int(here.name)) if named else (here, None)
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


def as_begun(workdir: Path) -> StartingPoint:
    """Returns where the run in `workdir` began, as the run keeps it: what it came from may have changed since.

    Raises:
        JaxptError: a damaged file of the run.
    """

    def state(layout: Layout, optimizer: Optimizer) -> State:
        raise JaxptError(f"{workdir} has lost its checkpoints; begin in another --workdir")

    path = workdir / "tokenizer" if has_tokenizer(workdir) else None
    description = "config.init_from as it was when this run began"
    return StartingPoint(stored_model(workdir), path, read_lineage(workdir), state, description)


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
    with_moments = load == "params+optimizer"

    def opened(number: int) -> StartingPoint:
        facts = read_run(run, number)
        model = model_of(facts)

        def state(layout: Layout, optimizer: Optimizer) -> State:
            abstract = abstract_state(model, optimizer, layout)
            wanted = abstract if with_moments else {"params": abstract["params"]}
            read = read_once(run, number, lambda number: read_state(run, number, wanted, facts), named=step is not None)
            return read if with_moments else _fresh(layout, optimizer, read["params"])

        entry = {"op": "train", "options": {"run": str(run)}, "steps": number, "tokens": facts["tokens"]}
        description = f"checkpoint {number} of run {run} ({'parameters and moments' if with_moments else 'parameters'})"
        path = run / "tokenizer" if has_tokenizer(run) else None
        return StartingPoint(model, path, [*read_lineage(run), entry], state, description, facts.get("ledger", []))

    return read_checkpoint(run, step, opened)


def _from_hugging_face(path: Path) -> StartingPoint:
    checkpoint = HuggingFaceCheckpoint(path)

    def state(layout: Layout, optimizer: Optimizer) -> State:
        return _fresh(layout, optimizer, read_params(checkpoint, "float32", layout.params))

    description = f"Hugging Face directory {path} ({checkpoint.family.model_type})"
    tokenizer = path if importing.has_tokenizer(path) else None
    return StartingPoint(checkpoint.config, tokenizer, [lineage_entry(checkpoint)], state, description)
