"""Checkpoints that are whole or not there: asynchronous Orbax saves, value digests, fall-back, retention."""

import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from jaxpt.bundles import digest
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.models.specs import ParamSpec, flatten, map_specs, param_specs, unflatten

for _name in ("absl", "asyncio"):  # Orbax tells every save in a dozen lines and every failure in hundreds: we tell it
    logging.getLogger(_name).setLevel(logging.CRITICAL)

Run = dict[str, Any]  # saved as `run` beside the arrays: step, tokens, model, schedule log, ledger, digests


@dataclass(frozen=True)
class Retention:
    """Which steps stay: the `keep` newest, those in `always`, and those for which `every(step)` holds."""

    keep: int
    always: frozenset[int] = frozenset()
    every: Callable[[int], bool] = lambda step: False

    def superfluous(self, steps: list[int]) -> list[int]:
        """Returns those of `steps` (ascending) that may go."""
        return [s for s in steps[: -self.keep] if s not in self.always and not self.every(s)]


class Checkpoints:
    """The folder `checkpoints/` of a run: `<step>/{params, opt_state, run}`, step counting finished steps."""

    def __init__(self, workdir: Path, retention: Retention, *, asynchronous: bool = True):
        """Opens the folder, made if need be; what a killed save left behind is removed.

        Args:
            workdir: the run directory.
            retention: which checkpoints stay.
            asynchronous: write in the background.
        """
        self.folder = Path(workdir).absolute() / "checkpoints"
        self._retention = retention
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, enable_async_checkpointing=asynchronous, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("params", "opt_state", "run"))

    def steps(self) -> list[int]:
        """Finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Mapping[str, Any], run: Run) -> None:
        """Starts saving; returns once the arrays may be donated to the next step.

        The digests are computed from the values on the devices first, so that a restore compares with what was trained,
        not with what was written.

        Raises:
            JaxptError: the disk is full or the folder cannot be written (also for the save before this one).
        """
        run = {**run, "step": step, "digests": digests(state)}
        args = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state["params"], save_args=_save_args(state["params"])),
            opt_state=ocp.args.PyTreeSave(state["opt_state"], save_args=_save_args(state["opt_state"])),
            run=ocp.args.JsonSave(run),
        )
        try:
            self._manager.wait_until_finished()
            self._tidy()
            self._manager.save(step, args=args, force=True)
        except (OSError, ValueError) as error:
            raise _storage_error(self.folder, error) from error

    def wait(self) -> None:
        """Blocks until the last save is finished and superfluous checkpoints are gone.

        Raises:
            JaxptError: the save failed, e.g. for a full disk.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise _storage_error(self.folder, error) from error
        self._tidy()

    def close(self) -> None:
        """Waits and releases the threads."""
        self.wait()
        self._manager.close()

    def restore(self, abstract: Mapping[str, Any], tell: Callable[[str], None]) -> tuple[Any, Run] | None:
        """Restores the newest checkpoint whose values match its digests; a damaged one is set aside with a reason.

        Args:
            abstract: tree of ShapeDtypeStruct with the shardings wanted now, which may differ from those saved.
            tell: receives one line for each checkpoint that was set aside.

        Returns:
            `(state, run)`, or None where there is no checkpoint.

        Raises:
            JaxptError: there are checkpoints, but all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, abstract)
            except JaxptError as error:
                reason = str(error)
            except Exception as error:  # whatever a reader makes of damaged files
                reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
            aside = self._set_aside(step)
            tell(f"checkpoint {step} is damaged ({reason}); set aside as {aside.name}, trying the one before")
        if steps:
            raise JaxptError(f"{self.folder}: no checkpoint could be restored; remove the folder to start again")
        return None

    def _restore(self, step: int, abstract: Mapping[str, Any]) -> tuple[Any, Run]:
        def item(tree: Any) -> ocp.args.PyTreeRestore:
            return ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))

        args = {k: item(v) for k, v in abstract.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args, run=ocp.args.JsonRestore()))
        state, run = {k: restored[k] for k in abstract}, restored["run"]
        for path, leaf in flatten(state).items():
            if not isinstance(leaf, jax.Array):
                raise JaxptError(f"{path} is missing")
        compare(run["digests"], digests(state))
        return state, run

    def _set_aside(self, step: int) -> Path:
        target = self.folder / f"{step}.damaged"
        if jax.process_index() == 0:
            shutil.rmtree(target, ignore_errors=True)
            os.rename(self.folder / str(step), target)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()
        return target

    def _tidy(self) -> None:
        for step in self._retention.superfluous(self.steps()):
            self._manager.delete(step)


def digests(state: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns a digest per (leaf, layer) of parameters and moments, the same on every mesh; scalars as they are."""
    out = dict(digest(state["params"]))
    for name, tree in state.get("opt_state", {}).items():
        if isinstance(tree, Mapping):
            out |= {f"{name}/{path}": v for path, v in digest(tree).items()}
        else:
            out[name] = [str(jax.device_get(tree).item())]
    return {path: list(values) for path, values in out.items()}


def compare(saved: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> None:
    """Raises a JaxptError naming the first leaf and layer whose digest is not the saved one."""
    for path, values in saved.items():
        if path not in now:
            raise JaxptError(f"{path} is missing")
        for layer, (a, b) in enumerate(itertools.zip_longest(values, now[path])):
            if a != b:
                raise JaxptError(f"the values of {path}, layer {layer}, are not those that were saved")


def read_run(workdir: Path, step: int) -> Run:
    """Returns the `run` item of a checkpoint."""
    return json.loads((Path(workdir) / "checkpoints" / str(step) / "run" / "metadata").read_text())


def model_of(run: Run) -> ModelConfig:
    """Returns the model of a checkpoint's `run` item: that of the run, with the rope of the stage it was saved in."""
    return ModelConfig.from_dict(run["model"])


def finished_steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints of a run directory, ascending, without opening a manager."""
    folder = Path(workdir) / "checkpoints"
    if not folder.is_dir():
        return []
    whole = [p for p in folder.iterdir() if p.name.isdigit() and (p / "_CHECKPOINT_METADATA").exists()]
    return sorted(int(p.name) for p in whole)


def read_state(workdir: Path, step: int, abstract: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Restores parts of one checkpoint, verified against its digests, without opening a manager.

    Args:
        workdir: the run directory.
        step: a finished checkpoint.
        abstract: `{"params": tree}` of ShapeDtypeStruct with shardings, with or without `"opt_state"`.
        run: its `run` item, whose digests the values must have.

    Raises:
        JaxptError: the values are not those that were saved.
    """
    folder = (Path(workdir) / "checkpoints" / str(step)).absolute()
    out = {}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        for item, tree in abstract.items():
            args = ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))
            out[item] = reader.restore(folder / item, args=args)
    saved = run["digests"]
    now = digests(out)
    try:
        compare({path: saved.get(path, []) for path in now}, now)
    except JaxptError as error:
        raise JaxptError(f"{folder} is damaged: {error}; use another checkpoint") from None
    return out


def _save_args(tree: Any) -> Any:
    """One layer per chunk for stacked leaves, so that a layer can be read without its stack."""

    def one(path: str, leaf: Any) -> ocp.SaveArgs:
        if "blocks/" not in path or leaf.ndim < 2:
            return ocp.SaveArgs()
        return ocp.SaveArgs(chunk_byte_size=leaf.nbytes // leaf.shape[0], shard_axes=(0,))

    return unflatten({path: one(path, leaf) for path, leaf in flatten(tree).items()})


def _storage_error(folder: Path, error: Exception) -> JaxptError:
    text = " ".join(str(error).split())
    whole = max(finished_steps(folder.parent), default=None)
    newest = "there is no whole checkpoint yet" if whole is None else f"the newest whole checkpoint is {whole}"
    if getattr(error, "errno", 0) == 28 or "No space left" in text:
        free = shutil.disk_usage(folder).free / 2**20
        return JaxptError(
            f"{folder}: the disk is full ({free:.0f} MiB free), {newest}; free space or lower config.checkpoint.keep, "
            f"and start again in the same workdir"
        )
    return JaxptError(f"{folder}: a checkpoint could not be written ({text[:300]}); {newest}")


def read_params(workdir: Path, step: int, run: Run, shardings: Mapping[str, Any] | None = None) -> Any:
    """Returns the parameters of a finished checkpoint, without knowing its optimizer, verified.

    Args:
        workdir: the run directory.
        step: of the checkpoint.
        run: its `run` item.
        shardings: tree of `NamedSharding`; None: all on this process's first device.
    """
    one = SingleDeviceSharding(jax.local_devices()[0])
    where = flatten(shardings) if shardings is not None else {}

    def abstract(path: str, spec: ParamSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(spec.shape, "float32", sharding=where.get(path, one))

    params = map_specs(abstract, param_specs(model_of(run)))
    return read_state(workdir, step, {"params": params}, run)["params"]
