"""A mistake in a flag is an error of one line that names the way out."""

import pytest

from jaxpt.cli import main
from jaxpt.cli.dispatch import Parser


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
