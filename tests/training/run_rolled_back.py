"""`python -m tests.training.run_rolled_back WORKDIR POINT`: a run that rolls back, killed at that point of it."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.training import test_rollback
from tests.training.test_rollback import IN_THE_BACKGROUND, POINTS, CrashAt, run


class Killed(BaseException):
    """Making one is the end of the process: no `finally`, no flush, nothing after it."""

    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    workdir, where = Path(sys.argv[1]), POINTS[sys.argv[2]]
    test_rollback.Crash = Killed  # what the points raise
    with pytest.MonkeyPatch.context() as patch:
        if not isinstance(where, int):
            where(workdir, patch)
        events = [CrashAt(where, workdir)] if isinstance(where, int) else []
        run(workdir, checkpoint=IN_THE_BACKGROUND, events=events)
