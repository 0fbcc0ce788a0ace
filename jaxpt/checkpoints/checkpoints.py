"""Checkpoints that are whole or not there: asynchronous Orbax saves, value digests, fall-back, retention."""

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from jaxpt.checkpoints import marks, restoring, run_item
from jaxpt.checkpoints.reading import Items, Shapes, compare, describe_extra, has_mean, not_finite, scan_state
from jaxpt.checkpoints.restoring import GoBack, Restored
from jaxpt.checkpoints.run_item import DamagedError, RunItem
from jaxpt.checkpoints.verdict import UNKNOWN, WHOLE, ReadVerdict, agreed
from jaxpt.errors import JaxptError
from jaxpt.files.partial import is_full
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params, Shardings, Tree
from jaxpt.models.specs import ParamSpec, flatten, map_specs, param_specs, unflatten
from jaxpt.sharding import text_of_first

for _name in ("absl", "asyncio"):  # Orbax writes a dozen lines per save, hundreds per failure
    logging.getLogger(_name).setLevel(logging.CRITICAL)

PATIENCE = 3.0  # seconds in which the writers of a failed save end
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of what Orbax has not written to the end


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
    """The folder `checkpoints/` of a run: `<step>/{params, opt_state, run}` and, where there are any, `extra`, `mean`,
    `guard`."""

    def __init__(self, workdir: Path, retention: Retention, *, asynchronous: bool = True):
        """Opens the folder, made if need be; what a killed save left behind is removed.

        Args:
            workdir: the run directory.
            retention: which checkpoints stay.
            asynchronous: write in the background.
        """
        self.folder = Path(workdir).absolute() / "checkpoints"
        self.retention = retention
        self._finite: set[int] = set()  # steps that this process knows to be finite
        self._digests: dict[int, str] = {}  # of checkpoints that were looked at when others were to go
        self._went_back: RunItem = {}
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, enable_async_checkpointing=asynchronous, cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_names=("params", "opt_state", "extra", "mean", "guard", "run")
            )
        except OSError as error:
            raise JaxptError(f"{error.filename or self.folder}: {error.strerror}; fix that and start again") from error

    def steps(self) -> list[int]:
        """Finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Items, run: RunItem) -> None:
        """Starts saving `state`: trees by item, "params", "opt_state" and perhaps "extra", "mean", "guard".

        Returns once the arrays may be donated to the next step.

        The digests are computed from the values on the devices first, so that a restore compares with what was trained,
        not with what was written.

        Raises:
            JaxptError: a value of the state is NaN or infinite, which is never saved, so that no good checkpoint is
                pruned for it; the disk is full or the folder cannot be written (also for the save before this one).
        """
        values = scan_state(state)
        if values.not_finite:
            raise JaxptError(f"step {step} is not saved, {not_finite(values)}; {self.way_back()}")
        described = describe_extra(state)
        facts: RunItem = {"step": step, "finite": True, "digests": values.digests}
        run = run_item.seal({**run, **self._went_back, **described, **facts})
        trees = {name: tree for name, tree in state.items() if tree}  # an item is never empty
        items = {name: ocp.args.PyTreeSave(tree, save_args=_save_args(tree)) for name, tree in trees.items()}
        args = ocp.args.Composite(**items, run=ocp.args.JsonSave(run))
        try:
            self._manager.wait_until_finished()
            self._tidy()
            self._manager.save(step, args=args, force=True)
            self._finite.add(step)
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

    def newest_finite(self) -> int | None:
        """The newest finished checkpoint that is known to be finite, once the one being written is finished."""
        with contextlib.suppress(OSError, ValueError):  # a save that failed is not a checkpoint
            self._manager.wait_until_finished()
        for step in reversed(finished_steps(self.folder.parent)):
            if step in self._finite or _is_sealed(self.folder / str(step)):
                return step
        return None

    def way_back(self) -> str:
        """What to do once values are not finite, as the end of a line."""
        step = self.newest_finite()
        if step is None:
            return "there is no finite checkpoint yet: start again with a lower --config.optimizer.learning_rate"
        return (
            f"the newest finite checkpoint is {step}: start again with --from_step={step} (or an earlier one) and a "
            f"lower --config.optimizer.learning_rate"
        )

    def restore(
        self,
        abstract: Shapes,
        log: Callable[[str], None],
        from_step: int | None = None,
        config: object = None,
        stale: Sequence[int] = (),
        *,
        may_begin: bool = False,
    ) -> Restored | None:
        """As `restoring.restore`, on this folder.

        Args:
            abstract: trees of ShapeDtypeStruct by item, with the shardings wanted now; further items follow from
                what was saved.
            log: receives one line for each checkpoint that was set aside.
            from_step: go on from this checkpoint, None: from the newest.
            config: the run's, JSON-ready; a start with the same `from_step` and config as before goes on from what
                came of it.
            stale: checkpoints that are not to be used.
            may_begin: no checkpoint need be left.
        """
        mark = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        back = None if from_step is None else GoBack(from_step, mark)
        restored = restoring.restore(self.folder, self.steps(), abstract, log, back, stale, may_begin=may_begin)
        if restored is not None:
            self._finite.add(restored.run["step"])
            same = restored.run.get("went_back", {}).get("config") == mark
            self._went_back = {"went_back": restored.run["went_back"]} if same else {}
        return restored

    def go_back(self, restored: Restored, log: Callable[[str], None]) -> list[str]:
        """As `restoring.go_back`, on this folder; to be called after every restore and before the first save."""
        names = restoring.go_back(self.folder, restored, log)
        self._digests = {}
        verdict = ReadVerdict(WHOLE)
        try:
            self._manager.reload()  # only here: no host may list the folder while another one renames or prunes
        except OSError as error:
            verdict = ReadVerdict(UNKNOWN, f"{error.filename}: {error.strerror}")
        verdict = agreed(verdict)
        if verdict.kind != WHOLE:
            raise JaxptError(f"{self.folder} cannot be listed ({verdict.reason}); fix that and start again")
        return names

    def _tidy(self) -> None:
        steps = self.steps()
        last_finite = max((s for s in steps if s in self._finite), default=None)
        superfluous = [step for step in self.retention.superfluous(steps) if step != last_finite]
        if not superfluous:
            return
        spared = text_of_first(self._spared(steps, superfluous)).split()  # another process may write it meanwhile
        for step in superfluous:
            if str(step) not in spared:
                self._manager.delete(step)

    def _spared(self, steps: Sequence[int], superfluous: Sequence[int]) -> str:
        """Which checkpoints stay for their score; all of them where what says so is broken, which a start reports."""
        try:
            kept = marks.read(self.folder.parent) if jax.process_index() == 0 else []
        except (OSError, JaxptError):
            return " ".join(map(str, superfluous))
        if not kept:
            return ""
        self._digests = {step: digest for step, digest in self._digests.items() if step in steps}
        self._digests |= marks.digests_of(self.folder.parent, [s for s in steps if s not in self._digests])
        spared = set().union(*(one.spared(self._digests) for one in kept))
        return " ".join(str(step) for step in superfluous if step in spared)


def _is_sealed(folder: Path) -> bool:
    try:
        return run_item.is_sealed(run_item.read(folder))
    except (OSError, DamagedError):
        return False


def read_run(workdir: Path, step: int) -> RunItem:
    """Returns the `run` item of a checkpoint, verified.

    Raises:
        JaxptError: it is not what was saved.
    """
    folder = Path(workdir) / "checkpoints" / str(step)
    try:
        return run_item.read(folder)
    except DamagedError as error:
        raise JaxptError(f"{folder} is damaged: {error}; use another checkpoint") from None


def model_of(run: RunItem) -> ModelConfig:
    """Returns the model of a checkpoint's `run` item: that of the run, with the rope of the stage it was saved in."""
    return ModelConfig.from_dict(run["model"])


def finished_steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints of a run directory, ascending, without opening a manager."""
    folder = Path(workdir) / "checkpoints"
    if not folder.is_dir():
        return []
    whole = [p for p in folder.iterdir() if p.name.isdigit() and (p / "_CHECKPOINT_METADATA").exists()]
    return sorted(int(p.name) for p in whole)


def read_state(workdir: Path, step: int, abstract: Shapes, run: RunItem) -> Items:
    """Restores parts of one checkpoint, verified against its digests, without opening a manager.

    Args:
        workdir: the run directory.
        step: a finished checkpoint.
        abstract: trees of ShapeDtypeStruct with shardings, of `"params"`, `"opt_state"`, `"extra"`, `"mean"`, any of
            them.
        run: its `run` item, whose digests the values must have.

    Raises:
        JaxptError: the values are not those that were saved.
    """
    folder = (Path(workdir) / "checkpoints" / str(step)).absolute()
    out: dict[str, Params] = {}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        for item, tree in abstract.items():
            args = ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))
            out[item] = reader.restore(folder / item, args=args) if tree else {}
    saved = run["digests"]
    now = scan_state(out).digests
    try:
        compare({path: saved.get(path, []) for path in now}, now)
    except JaxptError as error:
        raise JaxptError(f"{folder} is damaged: {error}; use another checkpoint") from None
    return out


def _save_args(tree: Params) -> Tree[ocp.SaveArgs]:
    """One layer per chunk for stacked leaves, so that a layer can be read without its stack."""

    def one(path: str, leaf: Array) -> ocp.SaveArgs:
        if "blocks/" not in path or leaf.ndim < 2:
            return ocp.SaveArgs()
        return ocp.SaveArgs(chunk_byte_size=leaf.nbytes // leaf.shape[0], shard_axes=(0,))

    return unflatten({path: one(path, leaf) for path, leaf in flatten(tree).items()})


def _storage_error(folder: Path, error: Exception) -> JaxptError:
    """Returns the line about a checkpoint that could not be written, of which nothing is left."""
    text = " ".join(str(error).split())
    if jax.process_index() == 0:
        _remove_unfinished(folder)
    whole = max(finished_steps(folder.parent), default=None)
    newest = "there is no whole checkpoint yet" if whole is None else f"the newest whole checkpoint is {whole}"
    if is_full(error):
        free = shutil.disk_usage(folder).free / 2**20
        return JaxptError(
            f"{folder}: the disk is full ({free:.0f} MiB free), {newest}; free space or lower "
            f"--config.checkpoint.keep, and start again in the same workdir"
        )
    return JaxptError(
        f"{folder}: a checkpoint could not be written ({text[:300]}), {newest}; mend that and start again in the same "
        f"workdir"
    )


def _remove_unfinished(folder: Path) -> None:
    """Removes what a save that failed has left; its other writers, which nobody can end, may write on for a moment."""
    end = time.monotonic() + PATIENCE
    while (left := list(folder.glob(f"*{UNFINISHED}*"))) and time.monotonic() < end:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(PATIENCE / 10)


def read_params(
    workdir: Path, step: int, run: RunItem, shardings: Shardings | None = None, mean: bool = False
) -> Params:
    """Returns the parameters of a finished checkpoint, without knowing its optimizer, verified.

    Args:
        workdir: the run directory.
        step: of the checkpoint.
        run: its `run` item.
        shardings: tree of `NamedSharding`; None: all on this process's first device.
        mean: their mean over the steps, which the run has kept beside them, instead.

    Raises:
        JaxptError: a mean that the run has not kept.
    """
    if mean and not has_mean(run):
        raise JaxptError(
            f"{Path(workdir) / 'checkpoints' / str(step)} has no mean of the parameters; a run keeps one with "
            f"--config.averaging.name=ema"
        )
    one = SingleDeviceSharding(jax.local_devices()[0])
    where = flatten(shardings) if shardings is not None else {}

    def abstract(path: str, spec: ParamSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(spec.shape, "float32", sharding=where.get(path, one))

    params = map_specs(abstract, param_specs(model_of(run)))
    item = "mean" if mean else "params"
    return read_state(workdir, step, {item: params}, run)[item]
