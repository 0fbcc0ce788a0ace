"""What a person sees in the terminal: tables that line up and one kind of progress bar."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm

from jaxpt.cli.visible import VisibleStream, in_cell, visible

NARROWEST = 40  # columns of a terminal; a narrower one breaks the lines itself
LEAST = 16  # columns of a text that is broken


def terminal_width() -> int | None:
    """Returns how many columns a line has: those of the terminal, or of `COLUMNS`; None for a file or a pipe."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return max(shutil.get_terminal_size().columns, NARROWEST)
    return None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns `rows` under `head` as lines of text: numbers flush right, everything else flush left.

    No line is wider than the terminal: texts are broken within their column, and columns that do not fit beside each
    other come below, behind the first one again.

    Args:
        head: column titles.
        rows: cells; integers get thousands separators, floats four significant digits.
    """

    def cell(x: object) -> str:
        if isinstance(x, bool):
            return "yes" if x else "no"
        if isinstance(x, int):
            return f"{x:,}"
        return f"{x:.4g}" if isinstance(x, float) else in_cell(str(x))

    body = [list(r) for r in rows]
    columns = [[r[i] for r in body] for i in range(len(head))]
    text = [list(head)] + [[cell(x) for x in r] for r in body]
    numbers = [
        [cell(x) for x in column if isinstance(x, (int, float)) and not isinstance(x, bool)] for column in columns
    ]
    right = [bool(n) for n in numbers]
    widths = [max(len(r[i]) for r in text) for i in range(len(head))]
    limit = terminal_width()
    if limit is None:
        return _lines(text, widths, right, list(range(len(head))))
    least = [min(w, max([LEAST, *map(len, n)])) for w, n in zip(widths, numbers)]
    blocks = _beside(least, limit)
    return "\n\n".join(_lines(text, _narrowed(widths, least, limit, block), right, block) for block in blocks)


def _beside(least: Sequence[int], limit: int) -> list[list[int]]:
    """Which columns stand beside each other: all where they fit, else in blocks that begin with the first."""
    blocks: list[list[int]] = [[]]
    for i in range(len(least)):
        if sum(least[j] + 2 for j in [*blocks[-1], i]) - 2 > limit and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks


def _narrowed(widths: Sequence[int], least: Sequence[int], limit: int, block: Sequence[int]) -> list[int]:
    """The widths with which the columns of a block fit: the widest gives way first."""
    out = list(widths)
    while sum(out[i] + 2 for i in block) - 2 > limit and (wide := [i for i in block if out[i] > least[i]]):
        out[max(wide, key=lambda i: out[i])] -= 1
    return out


def _lines(text: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool], block: Sequence[int]) -> str:
    """The columns `block` of the cells as lines; a cell that is wider than its column takes several."""
    out = []
    for number, row in enumerate(text):
        cells = [(textwrap.wrap(row[i], widths[i]) if len(row[i]) > widths[i] else None) or [row[i]] for i in block]
        for k in range(max(map(len, cells), default=1)):
            parts = [c[k] if k < len(c) else "" for c in cells]
            line = "  ".join(p.rjust(widths[i]) if right[i] else p.ljust(widths[i]) for p, i in zip(parts, block))
            out.append(line.rstrip())
        if number == 0:
            out.append("  ".join("-" * widths[i] for i in block))
    return "\n".join(out)


class _Bar(tqdm):
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(visible(s), refresh)

    def __del__(self) -> None:
        with suppress(AttributeError):  # Ctrl-C while it was being made
            super().__del__()


def _bars_stream() -> TextIO:
    """Standard error itself: a bar moves the cursor."""
    stream: TextIO = sys.stderr.raw if isinstance(sys.stderr, VisibleStream) else sys.stderr
    return stream


def progress(
    total: int, what: str, unit: str = "it", *, start: int = 0, scale: bool = False, quiet: bool = False
) -> tqdm:
    """Returns a progress bar on standard error with rate and time left; plain lines where there is no terminal.

    Args:
        total: how many units the whole job has.
        what: what is being done, in a word or two.
        unit: name of one unit.
        start: units that were done before this process began.
        scale: print counts with k, M, G.
        quiet: shows nothing.
    """
    stream = _bars_stream()
    alive = stream.isatty()
    return _Bar(
        total=total,
        initial=start,
        desc=visible(what),
        unit=unit,
        unit_scale=scale,
        disable=quiet,
        dynamic_ncols=alive,
        position=None if alive else 0,  # a second one would move the cursor of a terminal that is not there
        mininterval=0.2 if alive else 10.0,
        file=stream,
    )


def leave_out(bar: tqdm, units: int, seconds: float) -> None:
    """Counts `units` that took `seconds` in no rate and no time left: those of a compilation say nothing of the rest.

    Args:
        bar: from `progress`; the units themselves are added by its `update`, after this.
        units: done in that time.
        seconds: from when to now.
    """
    if bar.disable:
        return
    bar.initial += units
    bar.last_print_n += units
    bar.start_t += seconds
    bar.last_print_t += seconds


def say(line: str) -> None:
    """Prints a line on standard output, above a progress bar that a terminal shows."""
    with _Bar.external_write_mode(file=_bars_stream()):  # clears the bars, and shows them again below the line
        print(line, flush=True)
