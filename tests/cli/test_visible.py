"""Names and documents reach a terminal or a page as text that is seen, never as what a terminal obeys."""

import sys
from types import ModuleType

import pytest

from jaxpt.cli.dispatch import dispatch
from jaxpt.cli.terminal import progress, table
from jaxpt.cli.visible import visible
from jaxpt.errors import JaxptError

CLEAR = "\x1b[2J\x1b]0;owned\x07"


def test_control_characters_and_directions_are_written_out_and_text_stays():
    assert visible(CLEAR) == r"\x1b[2J\x1b]0;owned\x07"
    assert visible("a\rb\x9b31m\u202egnp\ud83d") == r"a\rb\x9b31m\u202egnp\ud83d"
    usual = "naïve café\n\tשלום 中文 🙂 \u200d"
    assert visible(usual) == usual


def test_a_table_keeps_its_columns_whatever_a_cell_holds():
    lines = table(["source", "documents"], [[f"a{CLEAR}\nb\tc", 3], ["d", 4]]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(r"a\x1b[2J\x1b]0;owned\x07\nb\tc ")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    package = ModuleType("odd_commands")
    package.__path__ = [str(tmp_path)]
    (tmp_path / "show.py").write_text(
        "import sys\nfrom jaxpt.errors import JaxptError\nHELP = 'shows'\n"
        "def main(argv):\n"
        "    if argv:\n        raise JaxptError('no file \\x1b[2J ' + 'x' * 10_000)\n"
        "    print('name \\x1b[2J', flush=True)\n    print('warning \\x07', file=sys.stderr)\n    return 0\n"
    )
    monkeypatch.setitem(sys.modules, "odd_commands", package)
    yield package
    sys.modules.pop("odd_commands.show", None)


def test_whatever_a_command_prints_is_visible_and_a_mistake_is_one_short_line(commands, capsys):
    before = sys.stdout
    assert dispatch("jaxpt", commands, ["show"]) == 0
    assert sys.stdout is before
    assert capsys.readouterr() == ("name \\x1b[2J\n", "warning \\x07\n")
    assert dispatch("jaxpt", commands, ["show", "x"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(r"jaxpt show: no file \x1b[2J xxx")
    assert line.count("\n") == 1
    assert len(line) < 2100


def test_a_bar_shows_names_and_still_moves_the_cursor_itself(capsys):
    with progress(2, f"pack {CLEAR}") as bar:
        bar.set_postfix_str(f"{CLEAR} docs")
        bar.update(2)
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert r"pack \x1b[2J" in shown


def test_the_error_of_a_library_call_stays_as_it_is():
    with pytest.raises(JaxptError, match="\x1b"):
        raise JaxptError("\x1b")
