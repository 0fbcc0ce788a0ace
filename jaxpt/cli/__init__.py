"""The command line: `main` dispatches; flags, tables and progress bars for every command."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `jaxpt NAME ARGS` and returns the exit code."""
    from jaxpt import commands
    from jaxpt.cli.dispatch import dispatch

    return dispatch("jaxpt", commands, argv)
