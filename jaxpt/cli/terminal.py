"""What a person sees in the terminal: tables that line up and one kind of progress bar."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from tqdm import tqdm

from jaxpt.cli.visible import VisibleStream, in_cell, visible


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns `rows` under `head` as lines of text: numbers flush right, everything else flush left.

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
    text = [list(head)] + [[cell(x) for x in r] for r in body]
    width = [max(len(r[i]) for r in text) for i in range(len(head))]
    right = [any(isinstance(r[i], (int, float)) and not isinstance(r[i], bool) for r in body) for i in range(len(head))]
    line = [
        "  ".join(c.rjust(w) if flush else c.ljust(w) for c, w, flush in zip(r, width, right)).rstrip() for r in text
    ]
    return "\n".join([line[0], "  ".join("-" * w for w in width), *line[1:]])


class _Bar(tqdm):
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(visible(s), refresh)

    def __del__(self) -> None:
        with suppress(AttributeError):  # Ctrl-C while it was being made
            super().__del__()


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
    stream = sys.stderr.raw if isinstance(sys.stderr, VisibleStream) else sys.stderr
    alive = stream.isatty()  # the bar moves the cursor itself
    return _Bar(
        total=total,
        initial=start,
        desc=visible(what),
        unit=unit,
        unit_scale=scale,
        disable=quiet,
        dynamic_ncols=alive,
        mininterval=0.2 if alive else 10.0,
        file=stream,
    )
