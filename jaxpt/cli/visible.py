"""What names and documents from files may do to a terminal or a page: nothing but be seen."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Control characters (a terminal obeys them), overrides of the writing direction, and unpaired surrogates.
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_CELL = re.compile("[\t\n\u2028\u2029]")  # would end a line of a table, or shift its columns


def visible(text: str) -> str:
    """Returns `text` with what a terminal would obey instead of show written out (`\\x1b`); line ends and tabs stay.

    Names and documents are strangers': printed as they are they could move the cursor, hide text, or type.
    """
    return INVISIBLE.sub(_escaped, text)


def in_cell(text: str) -> str:
    """Returns `text` likewise, as one line without tabs."""
    return _IN_CELL.sub(_escaped, visible(text))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class VisibleStream:
    """A text stream that writes everything `visible` to `raw`."""

    def __init__(self, stream: Any):
        """Wraps `stream`."""
        self.raw = stream

    def write(self, text: str) -> int:
        """Writes `text`; returns its length."""
        self.raw.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes `lines` one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def visible_output() -> Iterator[None]:
    """Within the block, what is printed on standard output and standard error is `visible`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (s if isinstance(s, VisibleStream) else VisibleStream(s) for s in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
