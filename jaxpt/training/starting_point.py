"""Where a run's first parameters come from: a bundle, another run's checkpoint, or a Hugging Face directory."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax.sharding import NamedSharding

from jaxpt.bundles import open_bundle
from jaxpt.bundles.moments import moments_facts
from jaxpt.checkpoints.checkpoints import finished_steps, model_of, read_run, read_state
from jaxpt.checkpoints.checkpoints import read_params as read_checkpoint_params
from jaxpt.checkpoints.named import named_checkpoint
from jaxpt.checkpoints.newest import read_checkpoint, read_once
from jaxpt.checkpoints.reading import with_extra
from jaxpt.checkpoints.run_files import has_tokenizer, read_lineage, stored_model
from jaxpt.data.ledger import Ledger
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent_model
from jaxpt.files.digests import canonical_digest
from jaxpt.interop import importing
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.interop.importing import lineage_entry, read_params
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params, Tree
from jaxpt.optim.chain import BuiltOptimizer
from jaxpt.sharding import text_of_first
from jaxpt.training.moments import describe, with_moments
from jaxpt.training.state import Layout, State, abstract_state, new_state


@dataclass(frozen=True)
class StartingPoint:
    """A model to start from.

    `state(layout, optimizer)` makes the first state, sharded as it is read, and `params(shardings, dtype)` reads the
    parameters alone (dtype None: each one's own); both raise `Pruned` where they come from the newest checkpoint of a
    run which has pruned that since.
    """

    model: ModelConfig
    tokenizer_path: Path | None
    lineage: list[dict[str, Any]]
    state: Callable[[Layout, BuiltOptimizer], State[Array]]
    description: str  # one line for the person watching
    params: Callable[[Tree[NamedSharding], str | None], Params]
    dtypes: Mapping[str, str] = field(default_factory=dict)  # of each parameter, those that are not float32
    ledger: list[dict[str, Any]] = field(default_factory=list)  # rows that the run it comes from has used
    exact: str | None = None  # a path that goes on naming these very parameters; None: the one that was given
    digest: str = ""  # of the parameters, as whoever wrote them noted it; "": there is none


def same_everywhere(path: str) -> str:
    """Names the newest checkpoint of a run, which several processes would each look for on their own.

    All processes must call it at the same point. Anything but a run's folder is returned as it is.
    """
    if not jax.distributed.is_initialized():
        return path
    with contextlib.suppress(JaxptError):  # every process finds it out again when it opens the path
        path = str(named_checkpoint(path))
    path = text_of_first(path)
    steps = finished_steps(Path(path)) if jax.process_index() == 0 else []
    step = text_of_first(str(steps[-1]) if steps else "")
    return str(Path(path) / "checkpoints" / step) if step else path


def open_start(path: str, load: str, where: str = "config.init_from") -> StartingPoint:
    """Says what `path` is and opens it.

    Args:
        path: a bundle, a run directory (its newest checkpoint), `RUN/checkpoints/STEP` or `RUN@best`, or a Hugging Face
            directory.
        load: "params", or "params+optimizer" to take along the moments of a run, and what its objective trained
            besides, or of a bundle that was reshaped with its run's moments (other kinds have none).
        where: the config key that names `path`, for messages.

    Raises:
        JaxptError: nothing there that can be read.
    """
    here = named_checkpoint(path)
    named = here.parent.name == "checkpoints" and here.name.isdigit()
    run, step = (here.parents[1], int(here.name)) if named else (here, None)
    if (run / "checkpoints").is_dir():
        return _from_run(run, step, load)
    if (here / "model.json").exists():
        return _from_bundle(here, load)
    if (here / "config.json").exists():
        return _from_hugging_face(here)
    if not here.exists():
        raise JaxptError(f"{where}: {path} {absent_model(path)}")
    raise JaxptError(
        f"{where}: {path} is not a bundle (model.json), run directory (checkpoints/) or Hugging Face directory "
        f"(config.json with *.safetensors)"
    )


def as_begun(workdir: Path) -> StartingPoint:
    """Returns where the run in `workdir` began, as the run keeps it: what it came from may have changed since.

    Raises:
        JaxptError: a damaged file of the run.
    """

    def gone(*_: object) -> NoReturn:
        raise JaxptError(f"{workdir} has lost its checkpoints; begin in another --workdir")

    path = workdir / "tokenizer" if has_tokenizer(workdir) else None
    description = "config.init_from as it was when this run began"
    return StartingPoint(stored_model(workdir), path, read_lineage(workdir), gone, description, gone)


def _from_bundle(path: Path, load: str) -> StartingPoint:
    bundle = open_bundle(path)
    moments = moments_facts(path) if load == "params+optimizer" else None

    def state(layout: Layout, optimizer: BuiltOptimizer) -> State[Array]:
        first = new_state(layout, optimizer, params(layout.params, "float32"))
        return first if moments is None else with_moments(path, moments, optimizer, first)

    def params(shardings: Tree[NamedSharding], dtype: str | None) -> Params:
        return bundle.params(dtype, shardings)

    tokenizer = path / "tokenizer"
    ledger = ledger_of(bundle.lineage).to_json()
    kept = tokenizer if tokenizer.exists() else None
    description = f"bundle {path}{describe(moments)}"
    lineage, digest = list(bundle.lineage), canonical_digest(bundle.digests)
    return StartingPoint(bundle.config, kept, lineage, state, description, params, bundle.dtypes, ledger, None, digest)


def ledger_of(lineage: Sequence[Mapping[str, Any]]) -> Ledger:
    """Returns the rows that all the runs in a lineage have used."""
    return Ledger.from_json(used for entry in lineage for used in entry.get("ledger", []))


def _from_run(run: Path, step: int | None, load: str) -> StartingPoint:
    with_moments, named = load == "params+optimizer", step is not None

    def opened(number: int) -> StartingPoint:
        facts = read_run(run, number)
        model = model_of(facts)

        def state(layout: Layout, optimizer: BuiltOptimizer) -> State[Array]:
            if not with_moments:
                return new_state(layout, optimizer, params(layout.params, None))
            wanted = with_extra(abstract_state(model, optimizer, layout).to_items(), facts)
            return State(**read_once(run, number, lambda n: read_state(run, n, wanted, facts), named=named))

        def params(shardings: Tree[NamedSharding], dtype: str | None) -> Params:
            read = lambda n: read_checkpoint_params(run, n, facts, shardings)  # noqa: E731
            return read_once(run, number, read, named=named)

        entry = {"op": "train", "options": {"run": str(run)}, "steps": number, "tokens": facts["tokens"]}
        entry |= {"flops": facts["flops"]} if "flops" in facts else {}
        description = f"checkpoint {number} of run {run} ({'parameters and moments' if with_moments else 'parameters'})"
        path = run / "tokenizer" if has_tokenizer(run) else None
        lineage, ledger = [*read_lineage(run), entry], facts.get("ledger", [])
        exact, digest = str(run / "checkpoints" / str(number)), canonical_digest(facts["digests"])
        return StartingPoint(
            model, path, lineage, state, description, params, ledger=ledger, exact=exact, digest=digest
        )

    return read_checkpoint(run, step, opened)


def _from_hugging_face(path: Path) -> StartingPoint:
    checkpoint = HuggingFaceCheckpoint(path)

    def state(layout: Layout, optimizer: BuiltOptimizer) -> State[Array]:
        return new_state(layout, optimizer, params(layout.params, "float32"))

    def params(shardings: Tree[NamedSharding], dtype: str | None) -> Params:
        return read_params(checkpoint, dtype, shardings)

    description = f"Hugging Face directory {path} ({checkpoint.family.model_type})"
    tokenizer = path if importing.has_tokenizer(path) else None
    entry = lineage_entry(checkpoint)
    return StartingPoint(
        checkpoint.config,
        tokenizer,
        [entry],
        state,
        description,
        params,
        checkpoint.dtypes,
        digest=canonical_digest(entry["files"]),
    )
