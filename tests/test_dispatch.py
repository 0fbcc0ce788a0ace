"""A mistake in a flag is an error of one line that names the way out."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools import commands as data_commands
from jaxpt import commands
from jaxpt.cli import main
from jaxpt.cli.dispatch import Parser, help_of


@pytest.fixture
def parser():
    out = Parser("jaxpt-data sieve", "sieve text", "example:\n  jaxpt-data sieve --input=a")
    out.add_argument("--input", required=True)
    out.add_argument("--engine", choices=("native", "ray"), default="native")
    out.add_argument("--mesh_size", type=int, default=1)
    return out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--inptu=a"], "there is no flag --inptu (did you mean '--input'?)"),
        (["--input=a", "--engine=nativ"], "argument --engine: 'nativ' is unknown (did you mean 'native'?)"),
        (["--input=a", "--mesh_size=two"], "argument --mesh_size: invalid int value: 'two'"),
        ([], "the following arguments are required: --input"),
        (["--input=a", "--mesh=2"], "there is no flag --mesh (did you mean '--mesh_size'?)"),  # no silent abbreviation
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_name(parser, capsys, args, line):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(args)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert printed.startswith(f"jaxpt-data sieve: {line}")
    assert printed.count("\n") == 1


def test_right_flags_are_read_and_help_keeps_the_example_as_it_is_written(parser):
    assert parser.parse_args(["--input", "a", "--mesh_size=3"]).mesh_size == 3
    assert "example:\n  jaxpt-data sieve --input=a" in parser.format_help()


def test_overrides_of_the_config_pass_and_a_mistyped_flag_beside_them_does_not(parser, capsys):
    args, overrides = parser.parse_overrides(["--input=a", "--config.steps=3", "--noconfig.shuffle"])
    assert (args.input, overrides) == ("a", ["--config.steps=3", "--noconfig.shuffle"])
    with pytest.raises(SystemExit):
        parser.parse_overrides(["--config.steps=3", "--inptu=a"])
    assert "did you mean '--input'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "reshape", "plan", "report", "generate", "inspect", "import", "export"])
def test_every_command_names_the_flag_that_was_meant(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--hlep"])
    printed = capsys.readouterr().err.strip()
    assert printed.startswith(f"jaxpt {name}: there is no flag --hlep (did you mean '--help'?)")
    assert "\n" not in printed


STARTED = """
import contextlib, io, sys
from {room}.{main} import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    for arguments in {calls}:
        with contextlib.suppress(SystemExit):
            main(arguments)
print(*sorted(set(sys.modules) & {heavy}))
"""
SLOW = {
    "jax",
    "flax",
    "grain",
    "orbax",
    "optax",
    "matplotlib",
    "scipy",
    "numba",
    "daft",
    "torch",
    "transformers",
    "pandas",
}
SLOWER_THAN_A_LIST = SLOW | {"numpy", "pyarrow", "fsspec", "tqdm", "ml_collections"}


def slow_modules(room, main, calls, heavy):
    """Which of the modules that take long to import were imported by these calls, in a process of their own."""
    code = STARTED.format(room=room, main=main, calls=calls, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_lists_of_commands_and_the_help_of_every_data_command_import_nothing_slow():
    assert slow_modules("jaxpt", "cli", [["--help"]], SLOWER_THAN_A_LIST) == []
    assert slow_modules("data_tools", "__main__", [["--help"]], SLOWER_THAN_A_LIST) == []
    each = [[name.strip("_"), "--help"] for _, name, _ in pkgutil.iter_modules(data_commands.__path__)]
    assert len(each) > 10
    assert slow_modules("data_tools", "__main__", each, SLOW) == []


def test_what_is_imported_too_early_would_be_noticed():
    assert slow_modules("data_tools", "__main__", [["dedup", "--help"]], SLOWER_THAN_A_LIST) != []


@pytest.mark.parametrize("package", [commands, data_commands])
def test_the_line_of_help_read_from_the_source_is_that_of_the_module(package):
    for module in pkgutil.iter_modules(package.__path__):
        source = (Path(package.__path__[0]) / f"{module.name}.py").read_text()
        assert help_of(source) == importlib.import_module(f"{package.__name__}.{module.name}").HELP
