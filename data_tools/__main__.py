"""The `jaxpt-data` command, also as `python -m data_tools`: parse and dispatch, nothing else."""

import sys
from collections.abc import Sequence

from data_tools import commands
from jaxpt.cli.dispatch import Command, dispatch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `jaxpt-data NAME ARGS`, NAME a command or `package.module:Class`; returns the exit code."""
    return dispatch("jaxpt-data", commands, argv, _step)


def _step(name: str) -> Command:
    from data_tools.pipelines.step import DataStep  # not needed for the list of commands
    from jaxpt.config.choice import find

    step = find(DataStep, name, "the command")
    return Command(step.main, step.summary())


if __name__ == "__main__":
    sys.exit(main())
