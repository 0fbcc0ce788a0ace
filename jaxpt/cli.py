"""The `jaxpt` command: parse and dispatch, nothing else."""

import sys
from collections.abc import Sequence

from jaxpt import commands
from jaxpt.dispatch import dispatch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `jaxpt NAME ARGS` and returns the exit code."""
    return dispatch("jaxpt", commands, argv)


if __name__ == "__main__":
    sys.exit(main())
