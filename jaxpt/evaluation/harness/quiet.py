"""What lm_eval shows beside a run's own output: bars that know nothing of the run's, complaints of git."""

import functools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import lm_eval.api.task
import lm_eval.evaluator
import tqdm


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Within the block lm_eval shows nothing of its own; the bars of jaxpt are shown.

    It takes `tqdm` once where tasks make their prompts, and at each bootstrap of a standard error. Outside a repository
    its question for the commit prints what git says of that.
    """
    made, task, evaluator = tqdm.tqdm, lm_eval.api.task, lm_eval.evaluator
    asking = evaluator.get_git_commit_hash
    silent = functools.partial(made, disable=True)
    tqdm.tqdm, task.tqdm, evaluator.get_git_commit_hash = silent, silent, _commit
    try:
        yield
    finally:
        tqdm.tqdm, task.tqdm, evaluator.get_git_commit_hash = made, made, asking


def _commit() -> str | None:
    """The commit of the repository that the command runs in, None outside of one."""
    try:
        found = subprocess.run(["git", "describe", "--always"], capture_output=True, check=True)
    except (subprocess.CalledProcessError, OSError):
        return None
    return found.stdout.decode().strip()
