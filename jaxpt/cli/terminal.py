"""What a person sees in the terminal: tables that line up and one kind of progress bar."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from tqdm import tqdm


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
        return f"{x:.4g}" if isinstance(x, float) else str(x)

    body = [list(r) for r in rows]
    text = [list(head)] + [[cell(x) for x in r] for r in body]
    width = [max(len(r[i]) for r in text) for i in range(len(head))]
    right = [any(isinstance(r[i], (int, float)) and not isinstance(r[i], bool) for r in body) for i in range(len(head))]
    line = [
        "  ".join(c.rjust(w) if flush else c.ljust(w) for c, w, flush in zip(r, width, right)).rstrip() for r in text
    ]
    return "\n".join([line[0], "  ".join("-" * w for w in width), *line[1:]])


class _Bar(tqdm):
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
    alive = sys.stderr.isatty()
    return _Bar(
        total=total,
        initial=start,
        desc=what,
        unit=unit,
        unit_scale=scale,
        disable=quiet,
        dynamic_ncols=alive,
        mininterval=0.2 if alive else 10.0,
        file=sys.stderr,
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
    if sys.stderr.isatty():
        tqdm.write(line)
    else:
        print(line, flush=True)
