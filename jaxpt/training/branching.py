"""Branches: a run that goes on from a checkpoint of another one, with stages of its own.

A branch begins with a copy of that checkpoint, in its own directory, whose `run` item says where it came from. From
there on it is a run like any other: its steps count on from the checkpoint's, its mixture and its ledger go on from
where they were, and the trunk may be trained on, or removed, meanwhile.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jaxpt.checkpoints import run_item
from jaxpt.checkpoints.checkpoints import finished_steps, model_of, read_run
from jaxpt.checkpoints.named import named_checkpoint
from jaxpt.checkpoints.newest import read_once
from jaxpt.checkpoints.run_files import has_tokenizer, read_lineage
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.data.order import Apart
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.files.partial import partial_directory
from jaxpt.training.config import RunConfig
from jaxpt.training.history import TRUNK
from jaxpt.training.starting_point import StartingPoint

KEY = "config.branch_from"
ITEM = Path("run") / "metadata"  # of a checkpoint's folder, as `run_item.read` reads it


@dataclass(frozen=True)
class Branch:
    """A checkpoint to branch from: the trunk's directory, the step, and the `run` item that the branch begins with."""

    trunk: Path
    step: int
    run: RunItem

    @property
    def description(self) -> str:
        """One line for the person watching."""
        rate = self.run["branch"]["learning_rate"]
        return f"checkpoint {self.step} of run {self.trunk}: parameters and moments, learning rate {rate:.6g}"


def parse_place(text: str) -> tuple[Path, int]:
    """Reads `RUN@STEP`, or `RUN@best` (see `jaxpt.checkpoints.named`).

    Raises:
        JaxptError: another text, a place in tokens, a folder that is no run, no checkpoint that a score picked out.
    """
    if "@best" in text:
        found = named_checkpoint(text.strip())
        text = f"{found.parents[1]}@{found.name}" if found.parent.name == "checkpoints" else text
    match = re.fullmatch(r"(.+)@([0-9]+(?:_[0-9]+)*)", text.strip())
    run = Path(match[1] if match else text.rpartition("@")[0] or text)
    have = f"; it has {_listed(finished_steps(run))}" if run.is_dir() else ""
    if not match:
        raise JaxptError(f"{KEY} is {text!r}, it must be RUN@STEP with the number of a checkpoint{have}")
    if not (run / "checkpoints").is_dir():
        raise JaxptError(f"{KEY}: {run} is no run directory (it has no checkpoints/)")
    step = int(match[2])
    if step not in finished_steps(run):
        raise JaxptError(f"{KEY}: {run} has no checkpoint {step}{have}")
    return run, step


def open_branch(config: RunConfig) -> Branch:
    """Opens the checkpoint that `config.branch_from` names and says what a branch takes over from it.

    Raises:
        JaxptError: no such checkpoint; a learning rate that is not known, or 0, where a stage takes it.
    """
    assert config.branch_from is not None
    trunk, step = parse_place(config.branch_from)
    saved = read_once(trunk, step, lambda n: read_run(trunk, n), named=True)
    rate = saved.get("learning_rate_next")
    if not rate and any(stage.learning_rate is None for stage in config.stages):
        what = "is not known" if rate is None else "is 0"
        raise JaxptError(
            f"{KEY}: the learning rate that {trunk} reached at step {step} {what}; give each stage a learning_rate, or "
            f"branch from another checkpoint"
        )
    log = saved["schedule_log"]
    consumed = dict(zip(log["names"], log["anchors"][-1]["consumed"])) if log["anchors"] else {}
    record = {"run": str(trunk), "step": step, "learning_rate": rate or 0.0, "consumed": consumed}
    record |= {"apart": list(config.branch.apart)} if config.branch.apart else {}
    record["digest"] = canonical_digest(saved["digests"])
    history = [{**leg, "stage": f"{TRUNK}{leg['stage']}"} for leg in saved.get("history", [])]
    if not history:
        raise JaxptError(
            f"{KEY}: checkpoint {step} of {trunk} was written by a version without branches; start from it with "
            f"--config.init_from={trunk}/checkpoints/{step}"
        )
    dropped = ("durations", "segments_since", "went_back", "digest")
    kept = {key: value for key, value in saved.items() if key not in dropped}
    return Branch(trunk, step, run_item.seal({**kept, "history": history, "branch": record}))  # type: ignore[typeddict-item]


def starting_point(branch: Branch) -> StartingPoint:
    """What a branch has of its trunk besides the checkpoint: model, tokenizer, lineage."""

    def gone(*_: object) -> NoReturn:
        raise JaxptError(f"{branch.trunk}: a branch begins with a copy of its checkpoint, which is gone")

    path = branch.trunk / "tokenizer" if has_tokenizer(branch.trunk) else None
    facts = {"run": str(branch.trunk), "step": branch.step, "checkpoint": branch.run["branch"]["digest"]}
    lineage = [*read_lineage(branch.trunk), {"op": "branch", "options": facts}]
    return StartingPoint(model_of(branch.run), path, lineage, gone, branch.description, gone)


def copy_checkpoint(branch: Branch, workdir: Path, check: Callable[[], None] = lambda: None) -> None:
    """Copies the checkpoint into the branch's directory, whole or not at all, with the branch's own `run` item.

    Args:
        branch: from `open_branch`.
        workdir: of the branch.
        check: called between listing and copying; for tests.

    Raises:
        JaxptError: the trunk removed the checkpoint meanwhile; the disk is full.
    """
    source = branch.trunk / "checkpoints" / str(branch.step)
    target = workdir / "checkpoints" / str(branch.step)
    wanted = _files(source)
    check()
    with partial_directory(target) as partial:
        try:
            shutil.copytree(source, partial, dirs_exist_ok=True)
        except (FileNotFoundError, shutil.Error):
            raise _pruned(branch) from None
        if _files(partial) != wanted or not (source / "_CHECKPOINT_METADATA").exists():
            raise _pruned(branch)
        (partial / ITEM).write_text(run_item.text(branch.run), encoding="utf-8")
        os.replace(partial, target)


def apart_of(branch: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Apart]:
    """Returns which part of each source's rows a branch takes; {} where it may share them with its siblings."""
    if not branch or "apart" not in branch:
        return {}
    part, of = branch["apart"]
    return {name: Apart(branch["consumed"].get(name, 0), part, of) for name in names}


def _files(folder: Path) -> dict[str, int]:
    """Sizes of all files below a folder, those that vanish meanwhile left out."""
    out = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                out[str(path.relative_to(folder))] = path.stat().st_size
        except FileNotFoundError:
            continue
    return out


def _pruned(branch: Branch) -> JaxptError:
    have = _listed(finished_steps(branch.trunk))
    return JaxptError(f"{KEY}: {branch.trunk} removed checkpoint {branch.step} while it was copied; it has {have}")


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
