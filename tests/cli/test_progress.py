"""What a bar says of the time left."""

import io
import re
import sys

import pytest

from jaxpt.cli.terminal import leave_out, progress, say
from jaxpt.cli.visible import visible_output


def after_a_compilation(left_out):
    """The bar after 10 of 1,000 units that took 100 s, and 90 that took 9 s."""
    bar = progress(1000, "train")
    for units, seconds in ((10, 100.0), (90, 9.0)):
        bar.start_t -= seconds
        if left_out and units == 10:
            leave_out(bar, units, seconds)
        bar.n += units
    shown = bar.format_meter(**bar.format_dict)
    bar.close()
    return shown


def test_the_time_left_ignores_the_compilation():
    assert "<01:30," in after_a_compilation(left_out=True)


def test_it_would_not_by_itself():  # the proof above can fail
    assert "<16:2" in after_a_compilation(left_out=False)


@pytest.mark.parametrize("units", [0, 5])
def test_a_bar_that_shows_nothing_is_left_as_it_is(units):
    bar = progress(10, "train", quiet=True)
    leave_out(bar, units, 1.0)
    assert bar.n == 0


class Terminal(io.StringIO):
    """A terminal, or a pipe."""

    def __init__(self, alive):
        super().__init__()
        self.alive = alive

    def isatty(self):
        return self.alive


def said_beside_a_bar(monkeypatch, alive, line=say):
    """What standard output and standard error show together, of a line while two bars are open."""
    stream = Terminal(alive)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    with visible_output(), progress(10, "train"), progress(10, "prompts") as inner:
        line("step 4")
        inner.update(10)
    return stream.getvalue()


def before_it(shown):
    """What a terminal shows before the line in its row, when it is written: rows, of which the cursor goes up and
    down."""
    rows, at, column = [""], 0, 0
    for text in re.findall(r"\x1b\[A|.", shown.partition("step 4\n")[0], re.DOTALL):
        if text == "\r":
            column = 0
        elif text in ("\n", "\x1b[A"):
            at, column = at + (1 if text == "\n" else -1), 0 if text == "\n" else column
            rows += [""] * (at + 1 - len(rows))
        else:
            rows[at], column = rows[at][:column].ljust(column) + text + rows[at][column + 1 :], column + 1
    return rows[at].strip()


def test_a_line_stands_alone_above_the_bars_of_a_terminal(monkeypatch):
    assert before_it(said_beside_a_bar(monkeypatch, True)) == ""


def test_printed_as_it_is_it_would_not(monkeypatch):  # the proof above can fail
    assert "0/10" in before_it(said_beside_a_bar(monkeypatch, True, print))


def test_two_bars_in_a_pipe_move_no_cursor(monkeypatch):
    assert "\x1b" not in said_beside_a_bar(monkeypatch, False)
    assert "\x1b[A" in said_beside_a_bar(monkeypatch, True)  # a terminal's does
