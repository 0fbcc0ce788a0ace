"""Processes of their own for tests of following: `train` a run (`slowly`), or `follow` one, perhaps killed.

FOLDER and WORKDIR on the command line; `follow` takes after how many answers it is killed, 0 for never.
"""

import os
import signal
import sys
import time
from pathlib import Path

from jaxpt import cli
from jaxpt.commands import train
from jaxpt.config.file import load
from jaxpt.training.config import RunConfig
from jaxpt.training.events import Changes, Event
from tests.evaluation import scored_runs

STEPS = ("--config.stages[0].duration=14 steps", "--config.stages[1].duration=8 steps")
ENTRY = {"process": "follower", "keep_best": "sums/acc_norm", "limit": 4}


class Slow(Event):
    """Waits after each step."""

    def is_due(self, view):
        return True

    def act(self, view):
        time.sleep(0.7)
        return Changes()


def start(folder, workdir, events):
    """Trains."""
    _, _, *overrides = scored_runs.flags(Path(folder), Path(workdir), *STEPS, **ENTRY)
    config = load(RunConfig, f"{folder}/config.py:{folder}", overrides)
    return train.train(config, Path(workdir), events)


def main():
    """One process."""
    what, folder, workdir, *more = sys.argv[1:]
    if what in ("train", "slowly"):
        return start(folder, workdir, [Slow()] if what == "slowly" else [])
    from jaxpt.evaluation.harness.kept import KeptAnswers
    from jaxpt.training import following

    following.POLL, left, put = 0.1, [int(more[0])], KeptAnswers.put

    def killed(self, key, value):
        put(self, key, value)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    KeptAnswers.put = killed
    while not (Path(workdir) / "model.json").exists():
        time.sleep(0.1)
    return cli.main(["eval", f"--follow={workdir}"])


if __name__ == "__main__":
    sys.exit(main())
