"""`| head`: a command whose reader is gone ends without a word; another broken pipe is an error as before."""

import contextlib
import os
import pkgutil

import pytest

import data_tools.__main__
from data_tools import commands as data_commands
from jaxpt import cli, commands
from jaxpt.cli.pipes import CLOSED, quiet_when_closed


@contextlib.contextmanager
def closed():
    """Standard output leads into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream, contextlib.redirect_stdout(stream):
        yield


def names(package):
    return [m.name.rstrip("_").replace("_", "-") for m in pkgutil.iter_modules(package.__path__)]


@pytest.mark.parametrize(("main", "package"), [(cli.main, commands), (data_tools.__main__.main, data_commands)])
def test_every_command_ends_quietly_where_nobody_reads(main, package, capfd):
    for argv in [["--help"], *([name, "--help"] for name in names(package))]:
        with closed():
            assert main(argv) == CLOSED, argv
    assert capfd.readouterr().err == ""


def test_an_inspection_that_is_longer_than_a_pipe_holds_ends_quietly(capfd):
    def long():
        for _ in range(10_000):
            print("a line of a table")
        return 0

    with closed():
        assert quiet_when_closed(long)() == CLOSED
    assert capfd.readouterr().err == ""


def test_another_broken_pipe_is_not_kept_quiet():
    def broken():
        raise BrokenPipeError(32, "Broken pipe")  # of a worker, say

    with pytest.raises(BrokenPipeError):
        quiet_when_closed(broken)()


def test_a_mistake_is_told_though_nobody_reads_the_output(capfd):
    with closed():
        assert cli.main(["inspect", "nowhere"]) == 1
    assert "nowhere does not exist" in capfd.readouterr().err
