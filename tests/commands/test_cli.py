"""The command finds its sub-commands; a mistake is an error of one line."""

import pkgutil

import pytest

from jaxpt import cli, commands
from jaxpt.errors import JaxptError


def run(capsys, *argv):
    code = cli.main(argv)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_help_lists_every_sub_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    names = [m.name.rstrip("_").replace("_", "-") for m in pkgutil.iter_modules(commands.__path__)]
    assert "train" in names
    assert all(f"  {name} " in out for name in names)


def test_an_unknown_command_names_its_neighbour_and_is_a_usage_error(capsys):
    assert run(capsys, "trian")[0] == 2
    assert "did you mean 'train'?" in run(capsys, "trian")[2]


def test_a_mistake_is_one_line_and_exit_1(capsys):
    code, _, err = run(capsys, "train", "--config=nowhere.py", "--workdir=runs/x")
    assert code == 1
    assert err == "jaxpt train: --config=nowhere.py: there is no file nowhere.py\n"


def test_debug_shows_the_traceback():
    with pytest.raises(JaxptError):
        cli.main(["train", "--config=nowhere.py", "--workdir=runs/x", "--debug"])
