"""A reader that has seen enough (`| head`, a pager that was left) ends a command quietly, as it ends any other tool."""

import contextlib
import functools
import os
import select
import sys
from collections.abc import Callable
from typing import IO, ParamSpec, TypeVar

CLOSED = 141  # 128 + SIGPIPE: what a shell says of a tool that this signal ended

P = ParamSpec("P")
T = TypeVar("T")


def quiet_when_closed(main: Callable[P, T]) -> Callable[P, T | int]:
    """Returns `main` that ends with 141 and without a word where nobody reads its output any more.

    A broken pipe of another kind (to a worker, to a file system) is raised as it is.
    """

    @functools.wraps(main)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T | int:
        try:
            try:
                code = main(*args, **kwargs)
            except SystemExit:  # --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # what is still held back would fail after the last line of Python
            return code
        except BrokenPipeError as error:
            if not nobody_reads(error):
                raise
            _drop()
            return CLOSED

    return quiet


def nobody_reads(error: BaseException) -> bool:
    """Whether an error is that of printing to a reader that is gone."""
    return isinstance(error, BrokenPipeError) and (_closed(sys.stdout) or _closed(sys.stderr))


def _closed(stream: IO[str]) -> bool:
    """Whether a stream leads into a pipe whose reader is gone."""
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):  # captured, or closed by the program itself
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _drop() -> None:
    """Leads closed streams nowhere, so that Python's own last flush of them does not fail aloud."""
    for stream in (sys.stdout, sys.stderr):
        if _closed(stream):
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
