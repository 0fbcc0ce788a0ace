"""Progress bars of lm_eval, which know nothing of those of a run that they stand in."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import lm_eval.api.task
import tqdm


@contextmanager
def silent_bars() -> Iterator[None]:
    """Within the block lm_eval shows no bars of its own; those of jaxpt are shown.

    It takes `tqdm` once where tasks make their prompts, and at each bootstrap of a standard error.
    """
    made, task = tqdm.tqdm, lm_eval.api.task
    silent = functools.partial(made, disable=True)
    tqdm.tqdm, task.tqdm = silent, silent
    try:
        yield
    finally:
        tqdm.tqdm, task.tqdm = made, made
