"""Reading checkpoints of a run that may be training: what a writer prunes meanwhile is replaced by the newest one."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.errors import JaxptError

T = TypeVar("T")
TRIES = 20  # of the newest checkpoint; a run that prunes faster than this is not read
GONE_WITHIN = 2.0  # seconds in which a checkpoint whose removal has begun is gone


class Pruned(JaxptError):
    """The newest checkpoint was pruned while it was read."""


def read_checkpoint(workdir: Path, step: int | None, read: Callable[[int], T]) -> T:
    """Returns what `read(step)` makes of one checkpoint.

    Args:
        workdir: the run directory.
        step: of a finished checkpoint; None: the newest one, and where that is pruned while it is read, the one that
            is the newest then.
        read: reads everything that it needs of the checkpoint, so that its parts are of one step.

    Raises:
        JaxptError: there is no such checkpoint, it was pruned while it was read, or it is damaged.
    """
    if step is not None:
        return read_once(workdir, chosen(workdir, step), read, named=True)
    return while_pruned(lambda: read_once(workdir, chosen(workdir, None), read, named=False))


def while_pruned(call: Callable[[], T]) -> T:
    """Returns `call()`, which is called again where the newest checkpoint was pruned while it read it."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except Pruned:
            continue
    return call()


def chosen(workdir: Path, step: int | None) -> int:
    """Returns `step`, or the newest one where it is None.

    Raises:
        JaxptError: there is no such finished checkpoint.
    """
    steps = finished_steps(workdir)
    if not steps or step not in (None, *steps):
        which = "" if step is None else f" {step}"
        raise JaxptError(f"{workdir} has no finished checkpoint{which}; it has {_list(steps)}")
    return steps[-1] if step is None else step


def read_once(workdir: Path, step: int, read: Callable[[int], T], *, named: bool) -> T:
    """Returns `read(step)`; arguments as `read_checkpoint`, `named` where the user named the step.

    Raises:
        Pruned: the checkpoint was not named and was pruned meanwhile; the newest may be read instead.
        JaxptError: it was named and pruned meanwhile, or is damaged.
    """
    try:
        return read(step)
    except Exception as error:  # Orbax has many for files that vanish or are damaged
        if _is_pruned(workdir, step, named):
            what = f"checkpoint {step} of {workdir} was pruned while it was read"
            if not named:
                raise Pruned(f"{what}; try again, or name one that is kept") from error
            raise JaxptError(f"{what}; take another, it has {_list(finished_steps(workdir))}") from error
        if isinstance(error, JaxptError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise JaxptError(f"{workdir}/checkpoints/{step} cannot be read ({reason}); use another checkpoint") from error


def _is_pruned(workdir: Path, step: int, named: bool) -> bool:
    """Whether a checkpoint that could not be read has been removed, or a newer one is to be read instead of it.

    The newest is never pruned; the removal of an older one may have only begun.
    """
    end = time.monotonic() + GONE_WITHIN
    while True:
        steps = finished_steps(workdir)
        if step not in steps:
            return True
        if step == steps[-1] or time.monotonic() > end:
            return False
        if not named:
            return True
        time.sleep(0.02)


def _list(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
