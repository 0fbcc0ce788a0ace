"""`--help-config` lists every key and every choice, from the dataclasses themselves."""

import re
import typing
from dataclasses import dataclass
from typing import Literal

import pytest

from data_tools.commands import run as pipeline
from data_tools.pipelines.pipeline import Pipeline
from jaxpt.cli import main
from jaxpt.config.choice import choices, is_kind, option
from jaxpt.config.help import WIDTH, describe
from jaxpt.config.hints import is_section, keys_of
from jaxpt.errors import JaxptError
from jaxpt.optim.schedule import Schedule
from jaxpt.reshape.config import ReshapeConfig
from jaxpt.training.config import RunConfig


def sections(hint):
    """The dataclasses that a section, and what it holds, are made of; of a kind all choices."""
    if is_section(hint):
        held = choices(hint).values() if is_kind(hint) else ()
        return {hint, *held}.union(*(sections(key.hint) for cls in (hint, *held) for key in keys_of(cls).values()))
    return set().union(*(sections(h) for h in typing.get_args(hint)))


def test_every_key_stands_in_a_line_with_its_default_and_no_line_is_long():
    lines = describe(RunConfig).splitlines()
    assert max(map(len, lines)) <= WIDTH
    for cls in sections(RunConfig):
        for key in keys_of(cls).values():
            named = any(re.match(rf" +{key.name}  |.*\b{key.name}(\[N\]|\.NAME)?:", line) for line in lines)
            assert named, f"{cls.__name__}.{key.name}"


def test_every_choice_stands_with_its_options_and_what_it_is():
    text = describe(RunConfig, "schedule")
    assert text.startswith("Set a key with --config.KEY=VALUE.")
    for name, cls in choices(Schedule).items():
        assert re.search(rf"  name={name}( \(default\))?: {cls.__doc__[:10]}", text)
    assert "  name=cosine (default): Warmup, then half a cosine" in text
    assert re.search(r"\n    decay_shape  text +linear +linear, cosine, sqrt or exponential\n", text)
    assert "optimizer" not in text


def test_columns_line_up():
    block = describe(RunConfig, "checkpoint").split("\n\n")[1].splitlines()[1:]
    starts = [[m.start() for m in re.finditer(r"(?<=  )\S", line)] for line in block if not line.startswith(" " * 20)]
    assert len({tuple(s[:3]) for s in starts}) == 1


@dataclass(frozen=True)
class Long:
    """What does not fit in its column goes to the line's end, whole."""

    lengths: dict[str, int] = option({"first": 1, "second": 2, "last": 3}, "of each")
    many: tuple[dict[str, dict[str, float]], ...] = option((), "of all")
    how: Literal["this way", "that way", "another way"] = option("this way", "it is done")


def test_what_is_long_is_neither_cut_nor_lost():
    assert describe(Long).split("\n\n")[1].splitlines()[1:] == [
        "  lengths  dict of whole number            …         of each; default {first: 1, second: 2, last: 3}",
        "  many     list of dict of dict of number  ()        of all",
        "  how      one of                          this way  it is done: this way | that way | another way",
    ]


def test_the_head_says_how_to_read_the_rest():
    assert describe(RunConfig, "checkpoint").split("\n\n")[0] == (
        "Set a key with --config.KEY=VALUE. A line: the key, its type, its default, what it means."
    )
    head = describe(RunConfig).split("\n\n")[0].replace("\n", " ")
    assert "[N] counts from 0. NAME is any name of yours. `name` may also be package.module:Class" in head


def test_a_section_that_only_one_choice_has_says_so():
    assert "stages[N].schedule.segments[N]: with name=segments: the pieces" in describe(RunConfig, "schedule")


def test_every_key_of_what_jaxpt_has_says_what_it_means():
    for config in (RunConfig, ReshapeConfig, Pipeline):
        for cls in sections(config):
            silent = [k.name for k in keys_of(cls).values() if not k.doc and not is_section(k.hint)]
            assert not silent, f"{cls.__name__}: {silent}"


def test_a_section_that_is_not_there_names_its_neighbour():
    with pytest.raises(JaxptError, match=r"there is no section checkpiont \(did you mean 'checkpoint'\?\)"):
        describe(RunConfig, "checkpiont")


@pytest.mark.parametrize("command", ["train", "plan", "reshape", "quickstart"])
def test_every_command_with_a_config_has_it(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help-config"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "transforms[N]" in shown if command == "reshape" else "stages[N].schedule" in shown


def test_a_pipeline_has_it_too(capsys):
    with pytest.raises(SystemExit):
        pipeline.main(["--help-config=steps"])
    assert "steps[N]" in capsys.readouterr().out
    assert main(["train", "--help-config=stepps"]) == 1
    assert "there is no section stepps" in capsys.readouterr().err
