"""The help of every command is that of its module, and imports neither JAX nor what needs it."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

from jaxpt import commands
from jaxpt.cli.dispatch import file_of
from jaxpt.cli.help_alone import asks_for_help, main_for_help

NAMES = [module.name for module in pkgutil.iter_modules(commands.__path__)]
ALL = """
import sys
from jaxpt import cli
for name in sys.argv[1:]:
    try:
        cli.main([name.rstrip("_").replace("_", "-"), "--help"])
    except SystemExit as end:
        assert end.code == 0
    heavy = [m for m in ("jax", "flax", "orbax", "tensorstore", "numpy") if m in sys.modules]
    print(name, "imports", heavy, file=sys.stderr)
"""


def shown(main, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_help_of_the_module_itself(name, capsys):
    module = importlib.import_module(f"{commands.__name__}.{name}")
    alone = main_for_help(file_of(module.__name__))
    assert alone is not None
    assert alone is not module.main
    assert shown(alone, capsys) == shown(module.main, capsys)


def test_it_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", ALL, *NAMES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"{name} imports []" for name in NAMES]


def test_a_command_that_imports_before_it_parses_would_be_seen(tmp_path):
    (tmp_path / "early.py").write_text("import colorsys\n\n\ndef main(argv):\n    return colorsys.ONE_THIRD\n")
    sys.modules.pop("colorsys", None)
    main = main_for_help(tmp_path / "early.py")
    assert "colorsys" not in sys.modules
    assert main([]) == 1 / 3
    assert "colorsys" in sys.modules


def test_a_file_without_a_function_main_is_left_to_its_module(tmp_path):
    (tmp_path / "choice.py").write_text("main = print\n")
    assert main_for_help(tmp_path / "choice.py") is None


@pytest.mark.parametrize(
    ("args", "asks"),
    [(["--help"], True), (["x", "-h"], True), ([], False), (["--", "--help"], False), (["--help-config"], False)],
)
def test_what_asks_for_help(args, asks):
    assert asks_for_help(args) == asks
