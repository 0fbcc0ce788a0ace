"""Which checkpoint a run goes on from: the newest whole one, or an earlier one that was asked for.

Only proven damage sets a checkpoint aside; every other error stops before anything was renamed.
"""

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from jaxpt.checkpoints import run_item
from jaxpt.checkpoints.reading import Items, Shapes, not_finite, read_checked
from jaxpt.checkpoints.run_item import DamagedError, RunItem
from jaxpt.checkpoints.verdict import DAMAGED, UNKNOWN, WHOLE, ReadVerdict, agreed, read_every_byte
from jaxpt.errors import JaxptError

Log = Callable[[str], None]

ASIDE = re.compile(r"\d+\.(damaged|set-aside)(-\d+)?")  # names of checkpoints that are used no more


@dataclass(frozen=True)
class GoBack:
    """A request to go on from an earlier checkpoint, `--from_step`."""

    step: int
    config: str  # digest of the config it was made with: the same command again is the same request


@dataclass(frozen=True)
class Restored:
    """A state to go on from, its `run` item, and what becomes of the checkpoints after it."""

    state: Items
    run: RunItem
    set_aside: list[str]  # names of those that were damaged
    later: list[int]  # steps to set aside with `go_back`, once nothing else refuses to go on from here


def restore(
    folder: Path,
    steps: list[int],
    abstract: Shapes,
    log: Log,
    back: GoBack | None = None,
    stale: Sequence[int] = (),
    *,
    may_begin: bool = False,
) -> Restored | None:
    """Restores the newest checkpoint whose values match its digests; only a proven damaged one is set aside.

    Args:
        folder: `checkpoints/` of a run.
        steps: the finished ones, ascending.
        abstract: tree of ShapeDtypeStruct with the shardings wanted now, which may differ from those saved.
        log: receives one line for each checkpoint that was set aside.
        back: go on from this checkpoint.
        stale: checkpoints that a rollback has made useless; they are to be set aside with `go_back`.
        may_begin: a rollback went back to the run's beginning, so that no checkpoint need be left.

    Returns:
        None where there is no checkpoint.

    Raises:
        JaxptError: a checkpoint that cannot be read for another reason than damage, or is not finite; nothing
            whole beside what was set aside; an unknown step in `back`. Nothing was renamed for it.
    """
    _check_alike(folder, steps)
    if back and back.step in stale:
        raise JaxptError(
            f"--from_step={back.step}: that checkpoint was trained on steps which a rollback passes over; take an "
            f"earlier one"
        )
    steps = [step for step in steps if step not in stale]
    if back:
        check_step(folder, steps, back.step)
    if back and _is_done(back, folder, steps[-1]):
        log(f"checkpoint {steps[-1]} came from --from_step={back.step} with this config: going on from it")
        back = None
    set_aside: list[str] = []
    for step in [back.step] if back else reversed(steps):
        try:
            state, run = _whole(folder, step, abstract, log, [s for s in steps if s < step])
        except DamagedError as error:
            if back:
                others = ", ".join(str(s) for s in steps if s != step) or "none"
                raise JaxptError(
                    f"--from_step={step}: {folder / str(step)} is damaged ({error}); take another of {others}"
                ) from None
            set_aside.append(_set_aside(folder, step, "damaged"))
            log(f"checkpoint {step} is damaged ({error}); set aside as {set_aside[-1]}, trying the one before")
            continue
        if not back:
            return Restored(state, run, set_aside, sorted(stale))
        return Restored(state, {**run, "went_back": vars(back)}, [], sorted([*stale, *(s for s in steps if s > step)]))
    _refuse_to_begin_again(folder, "damaged" if may_begin else "damaged|set-aside")
    return None


def go_back(folder: Path, restored: Restored, log: Log) -> list[str]:
    """Sets aside the checkpoints after the restored one; returns the names of all that was set aside."""
    names = [_set_aside(folder, s, "set-aside") for s in reversed(restored.later)]  # a kill leaves the earlier ones
    if names:
        log(f"set aside in {folder}: {', '.join(reversed(names))}; remove those that are not needed")
    return [*restored.set_aside, *names]


def check_step(folder: Path, steps: list[int], wanted: int) -> None:
    """Raises a JaxptError that lists the finished checkpoints of `folder` where `wanted` is not one of them."""
    if wanted not in steps:
        have = ", ".join(map(str, steps)) or "none"
        raise JaxptError(f"--from_step={wanted}: {folder} has no such checkpoint; it has {have}")


def _check_alike(folder: Path, steps: list[int]) -> None:
    """Raises where the hosts do not see the same checkpoints."""
    seen = hashlib.sha256(str(steps).encode()).hexdigest()
    alike = agreed(ReadVerdict(WHOLE, seen)).reason.endswith(seen)  # the text of process 0
    if agreed(ReadVerdict(WHOLE if alike else UNKNOWN)).kind != WHOLE:
        raise JaxptError(f"{folder}: not all hosts see the same checkpoints; give a --workdir that all of them share")


def _is_done(back: GoBack, folder: Path, newest: int) -> bool:
    """Whether the newest checkpoint came from the same command, which was started again."""
    if newest == back.step:
        return False
    run: RunItem = {}
    with contextlib.suppress(OSError, DamagedError):
        run = run_item.read(folder / str(newest))
    same = run.get("went_back") == vars(back)
    return agreed(ReadVerdict(WHOLE if same else DAMAGED)).kind == WHOLE


def _whole(folder: Path, step: int, abstract: Shapes, log: Log, earlier: list[int]) -> tuple[Items, RunItem]:
    """Restores one checkpoint. Damage is proven when it fails twice and all bytes can be read.

    Raises:
        DamagedError: proven damage.
        JaxptError: any other error, or values that are not finite.
    """
    checkpoint = folder / str(step)
    way = f", or go on from an earlier checkpoint with --from_step={earlier[-1]}" if earlier else ""
    first = ReadVerdict(WHOLE)
    for attempt in range(2):
        state, run, values, verdict = read_checked(checkpoint, abstract)
        if verdict.kind == WHOLE and state is not None:
            if attempt:
                log(f"checkpoint {step} could be read at the second attempt; the first: {first.reason}")
            if values.not_finite:
                del state
                raise JaxptError(
                    f"{checkpoint} is not usable, {not_finite(values)}; {_before(folder, earlier, abstract)}"
                )
            if not run_item.is_sealed(run):
                log(f"checkpoint {step} was written by an earlier version, without a digest of its run item")
            return state, run
        if verdict.kind == UNKNOWN:
            break
        first = verdict
    if verdict.kind == DAMAGED:
        readable = agreed(read_every_byte(checkpoint))
        if readable.kind == WHOLE:
            raise DamagedError(verdict.reason)
        verdict = readable
    raise JaxptError(
        f"{checkpoint} could not be read ({verdict.reason}); it was left as it is: fix that and start again{way}"
    )


def _before(folder: Path, earlier: list[int], abstract: Shapes) -> str:
    """What to do about a checkpoint of an earlier version that is not finite, as the end of a line."""
    for step in reversed(earlier):
        state, _, values, verdict = read_checked(folder / str(step), abstract)
        del state
        if verdict.kind == WHOLE and not values.not_finite:
            return (
                f"the newest finite checkpoint before it is {step}: start again with --from_step={step} and a lower "
                f"config.optimizer.learning_rate"
            )
    return "none before it is finite: begin in another --workdir with a lower --config.optimizer.learning_rate"


def _set_aside(folder: Path, step: int, mark: str) -> str:
    """Renames a checkpoint so that it is used no more; returns its new name. What was set aside before stays."""
    verdict = ReadVerdict(WHOLE)
    if jax.process_index() == 0:
        try:
            name = next(n for n in _names(step, mark) if not os.path.lexists(folder / n))
            os.rename(folder / str(step), folder / name)
            verdict = ReadVerdict(WHOLE, name)
        except OSError as error:
            verdict = ReadVerdict(UNKNOWN, f"{folder / str(step)} cannot be renamed: {error.strerror}")
    verdict = agreed(verdict)
    if verdict.kind != WHOLE:
        raise JaxptError(f"{verdict.reason}; fix that and start again")
    return verdict.reason.rpartition(" ")[2]  # of several hosts with "process 0: " before it


def _refuse_to_begin_again(folder: Path, marks: str) -> None:
    """Raises where checkpoints were set aside and none is left: a start would begin at step 0."""
    aside = sorted(p.name for p in folder.iterdir() if p.is_dir() and re.fullmatch(rf"\d+\.({marks})(-\d+)?", p.name))
    if aside:
        raise JaxptError(
            f"{folder}: no whole checkpoint is left beside {', '.join(aside)}, and a start would begin at step "
            f"0; mend one and give it back its number as name, or move them elsewhere to begin again"
        )


def _names(step: int, mark: str) -> Iterator[str]:
    return (f"{step}.{mark}" + (f"-{n}" if n > 1 else "") for n in itertools.count(1))
