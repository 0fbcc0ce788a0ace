"""The `jaxpt-data` command, also as `python -m data_tools`: parse and dispatch, nothing else."""

import sys
from collections.abc import Sequence

from data_tools import commands
from jaxpt.cli.dispatch import dispatch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `jaxpt-data NAME ARGS` and returns the exit code."""
    return dispatch("jaxpt-data", commands, argv)


if __name__ == "__main__":
    sys.exit(main())
