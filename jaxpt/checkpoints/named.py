"""Checkpoints by name: `RUN@STEP`, and `RUN@best` for the one that a score picked out."""

import re
from pathlib import Path

from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.errors import JaxptError

NAMED = re.compile(r"(?P<run>.+)@(?:(?P<step>[0-9]+)|best(?:/(?P<words>.+))?)")


def named_checkpoint(path: str | Path) -> Path:
    """Returns `RUN/checkpoints/STEP` for `RUN@STEP`, `RUN@best` and `RUN@best/WORDS`, any other path as it is.

    WORDS are a stage, an entry that scores checkpoints, or ENTRY/STAGE; without a stage it is the best of the last
    stage that has one.

    Raises:
        JaxptError: no checkpoint was picked out, or several entries picked one.
    """
    match = NAMED.fullmatch(str(path))
    if match is None or Path(path).exists() or not (Path(match["run"]) / "checkpoints").is_dir():
        return Path(path)
    run = Path(match["run"])
    return run / "checkpoints" / (match["step"] or str(best_step(run, match["words"] or "", str(path))))


def best_step(run: Path, words: str, where: str) -> int:
    """Returns the step of the best checkpoint that `words` name; `where` is what the user typed.

    Raises:
        JaxptError: as `named_checkpoint`.
    """
    every = marks.best_of(run, finished_steps(run))
    if not every:
        raise JaxptError(
            f"{where}: no checkpoint of {run} was picked out by a score; train it with keep_best in an entry of "
            f"config.evaluations, or follow it with jaxpt eval --follow={run} --keep_best=TASK/METRIC"
        )
    names = {f"{kept.entry}/{one.stage}" for kept, one in every}
    found = [(k.entry, one) for k, one in every if words in ("", k.entry, one.stage, f"{k.entry}/{one.stage}")]
    if len({entry for entry, _ in found}) != 1:
        which = "none of them" if not found else "more than one entry"
        raise JaxptError(f"{where} names {which}; give one of {', '.join(f'{run}@best/{n}' for n in sorted(names))}")
    return found[-1][1].step
