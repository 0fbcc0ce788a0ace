"""Checkpoint folders of a tiny run for tests of what is read from them: made once, copied, harmed, restored alone."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

import jax

from jaxpt.checkpoints.checkpoints import Checkpoints, Retention
from jaxpt.config.schema import build
from jaxpt.training.config import RunConfig
from jaxpt.training.program import make_program
from jaxpt.training.run_plan import make_plan
from jaxpt.training.state import abstract_state
from tests.training import run_made
from tests.training.feed import MadeSource

FIRST_STAGE = run_made.CONFIG["stages"][:1]  # 20 steps, checkpoints 15 and 20 stay


def make(workdir):
    """Trains the first stage."""
    assert run_made.start(workdir, stages=FIRST_STAGE, log=lambda line: None) == 0
    return workdir


def copy(workdir, to):
    """A run directory of its own for a test that harms it."""
    shutil.copytree(workdir, to)
    return to


def program(**changes):
    """Returns (plan, layout, optimizer) of the tiny run."""
    config = build(RunConfig, {**run_made.CONFIG, **changes})
    plan = make_plan(config, {"a": MadeSource(), "b": MadeSource()})
    layout, optimizer, _ = make_program(plan, jax.devices()[:1])
    return plan, layout, optimizer


def restore(workdir, from_step=None):
    """Restores as a start would; returns the step, None without a checkpoint, and the lines that it printed."""
    plan, layout, optimizer = program()
    lines = []
    checkpoints = Checkpoints(workdir, Retention(9), asynchronous=False)
    restored = checkpoints.restore(abstract_state(plan.model, optimizer, layout).to_items(), lines.append, from_step)
    if restored:
        checkpoints.go_back(restored, lines.append)
    checkpoints.close()
    return restored.run["step"] if restored else None, lines


def contents(workdir):
    """Every path of a run directory with its size, and the bytes of its metrics."""
    names = {str(p.relative_to(workdir)): p.lstat().st_size for p in Path(workdir).rglob("*")}
    return names, (Path(workdir) / "metrics.jsonl").read_bytes()


@contextlib.contextmanager
def without_rights(folder, closed):
    """Runs as the owner of `folder`, who may not read `closed`: root may read anything."""
    before = closed.stat().st_mode
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
    closed.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(stat.S_IMODE(before))
