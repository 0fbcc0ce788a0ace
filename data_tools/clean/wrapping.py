"""Hard line wraps: know them, and join what they cut, so that rules judge the text and not its typesetting.

A text is wrapped at W characters when nearly every line inside a paragraph is full: the next line's first word would
have passed W; and when lines go on in mid-sentence, which rows of a table, entries of a log and verses do not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.clean import characters

FEWEST = 5  # line breaks inside paragraphs that show anything
FULL = 0.6  # share of them that is full in a wrapped text
GOES_ON = 0.4  # share of the full ones after which a sentence goes on
NEARLY = 0.9  # of the width: a line that comes so far is full
NARROWEST, WIDEST = 30, 120  # characters of a line
NARROWEST_UNSPACED = 10
WORST = 0.98  # share of lines that keep within the width; the others are tables, addresses, …
CODE, MOST_CODE = "=(){}<>|", 0.02  # characters of code, tables and markup, and the share that prose may hold
_ITEM = re.compile(r"\s*(?:[-*•‣–—]|\(?\d{1,3}[.)]|[a-z][.)])\s")
_ENDS = (".", "!", "?", ":", ";", "。", "！", "？", "：", "；", '."', ".'", "”", "’", "」")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class _Break:
    """A line break inside a paragraph."""

    full: bool  # the next line's first word would not have fitted
    goes_on: bool  # in mid-sentence
    starts_item: bool  # a list item or an indented paragraph begins after it


def _unspaced(char: str) -> bool:
    """Tells whether a character belongs to text without spaces: its scripts, their marks and wide forms."""
    return characters.unspaced(char) or "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef"


def _first_word(line: str) -> int:
    """Returns the length of a line's first word, with the space before it; of an unspaced script one character."""
    match = _WORD.search(line)
    if match is None:
        return 0
    return 1 if _unspaced(match[0][0]) else len(match[0]) + 1


def _width(lines: Sequence[str]) -> int | None:
    """Returns the width that lines keep to, None where they are too narrow or too wide for a wrap."""
    lengths = sorted(len(line.rstrip()) for line in lines if line and not line.isspace())
    if not lengths:
        return None
    width = lengths[min(int(WORST * len(lengths)), len(lengths) - 1)]
    letters = [line.strip()[0] for line in lines[:200] if line and not line.isspace()]
    narrowest = NARROWEST_UNSPACED if 2 * sum(map(_unspaced, letters)) > len(letters) else NARROWEST
    return width if narrowest <= width <= WIDEST else None


def _break(line: str, after: str, width: int) -> _Break:
    line, start = line.rstrip(), after.lstrip()
    full = len(line) + _first_word(after) >= NEARLY * width
    goes_on = start[0].islower() or (_unspaced(start[0]) and _unspaced(line[-1]))
    deeper = len(after) - len(start) > len(line) - len(line.lstrip()) + 1
    return _Break(full, goes_on and not line.endswith(_ENDS), deeper or _ITEM.match(after) is not None)


def _breaks(lines: Sequence[str]) -> dict[int, _Break]:
    """Returns the breaks inside paragraphs by the number of the line before each; none where it is not wrapped."""
    width = _width(lines)
    if width is None:
        return {}
    filled = [bool(line) and not line.isspace() for line in lines]
    places = [i for i in range(len(lines) - 1) if filled[i] and filled[i + 1]]
    breaks = {i: _break(lines[i], lines[i + 1], width) for i in places}
    full = [b for b in breaks.values() if b.full]
    if len(full) < max(FEWEST, FULL * len(breaks)) or sum(b.goes_on for b in full) < GOES_ON * len(full):
        return {}
    return breaks


def unwrap(text: str) -> str:
    """Returns a hard-wrapped text with the lines of each paragraph joined; of any other text the very same object.

    Words that were hyphenated at a line end are whole again, unless the text writes them with a hyphen elsewhere.
    Verses, lists, tables and indented paragraphs keep their lines.
    """
    count = text.count("\n") + 1
    if count <= FEWEST or not NARROWEST_UNSPACED / 2 <= len(text) / count <= WIDEST:
        return text  # quickly, as most pages
    if sum(map(text.count, CODE)) > MOST_CODE * len(text):
        return text
    lines = text.split("\n")
    breaks = _breaks(lines)
    if not breaks:
        return text
    words: set[str] = set()
    out = [lines[0]]
    for i, line in enumerate(lines[1:]):
        seen = breaks.get(i)
        if seen is None or seen.starts_item or not (seen.full or seen.goes_on):
            out.append(line)
            continue
        if out[-1].endswith("-") and not words:
            words = {word.strip(",.;:!?\"'()").lower() for word in text.split()}
        out[-1] = _joined(out[-1].rstrip(), line.lstrip(), words)
    return "\n".join(out)


def _joined(before: str, after: str, words: set[str]) -> str:
    """Returns two lines as one."""
    if _unspaced(before[-1]) and _unspaced(after[0]):
        return before + after
    if before.endswith(("--", "—")):
        return before + after
    if before.endswith("-") and len(before) > 1 and before[-2].isalpha() and after[0].islower():
        head, tail = before.split()[-1], after.split()[0].strip(",.;:!?\"'()")
        apart = f"{head}{tail}".strip("\"'(").lower() in words and f"{head[:-1]}{tail}".lower() not in words
        return before + after if apart else before[:-1] + after
    return f"{before} {after}"
