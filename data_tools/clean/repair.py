"""Repair text that was decoded wrongly: mojibake, HTML entities, terminal escapes, control characters (by ftfy).

ftfy reads every line several times; a pattern that is quick to test finds the texts that it could change at all.
Nothing is made uniform: curly quotes, ligatures, full-width marks and line breaks stay as they are.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jaxpt.errors import JaxptError

# What ftfy could change under the settings below: control characters, entities, the replacement character, and pairs
# of characters that UTF-8 bytes turn into when they are read as a one-byte encoding. Such bytes never become
# ideographs, kana, Hangul syllables or East Asian marks, so text in those scripts costs nothing.
# Each pattern begins with a set or a letter, which `re` looks for quickly; one pattern for all is 5 times slower.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffd\ud800-\udfff]")
_ASCII_CONTROLS = bytes({*range(32), 127} - {*b"\t\n\r"})
_ENTITY = re.compile("&[#0-9A-Za-z]+;")
_WRONG = (
    "\u00a0-\u024f\u02c6-\u02dd\u0370-\u04ff\u2013-\u203a\u20ac\u2116\u2122\u2202-\u25ca\u2500-\u25a0\ufb01\ufb02\uf8ff"
)
_PAIR = re.compile(f"[{_WRONG}][{_WRONG}]")


def _suspect(text: str) -> bool:
    """Whether ftfy could change anything."""
    if "&" in text and _ENTITY.search(text):
        return True
    if text.isascii():
        raw = text.encode("ascii")
        return len(raw.translate(None, _ASCII_CONTROLS)) < len(raw)
    return bool(_CONTROLS.search(text) or _PAIR.search(text)) or "\u00c2 " in text or "\u00c3 " in text


@cache
def _ftfy() -> tuple[Callable[..., str], Any]:
    try:
        import ftfy
    except ImportError as error:
        raise JaxptError("clean: the edit repair needs ftfy; pip install ftfy, or set repair.on=false") from error
    settings = ftfy.TextFixerConfig(
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        normalization=None,
    )
    return ftfy.fix_text, settings


def repair(text: str) -> str:
    """Returns `text` repaired; the very same object where there is nothing to repair."""
    if not _suspect(text):
        return text
    fix, settings = _ftfy()
    settings = settings._replace(unescape_html="<" not in text)  # markup shows its entities on purpose
    lines = text.split("\n")
    fixed = [fix(line, settings) if _suspect(line) else line for line in lines]
    return text if fixed == lines else "\n".join(fixed)
