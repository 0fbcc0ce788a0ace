"""Repair text that was decoded wrongly: mojibake, HTML entities, terminal escapes, control characters (by ftfy).

ftfy reads every line several times; a pattern that is quick to test finds the texts that it could change at all. Nothing
is made uniform: curly quotes, ligatures, full-width marks and line breaks stay as they are.
"""

import re
from functools import cache

from jaxpt.errors import JaxptError

# Everything that ftfy could change under the settings below: a control character, an entity, the replacement character,
# or characters that UTF-8 bytes turn into when they are read as a one-byte encoding. Such a byte pair never becomes two
# ideographs, kana, Hangul syllables or East Asian marks, so text in those scripts costs nothing.
_LEAD = (
    "\u00a0-\u024f\u02c6-\u02dd\u0370-\u04ff\u2013-\u203a\u20ac\u2116\u2122\u2202-\u25ca\u2500-\u25a0\ufb01\ufb02\uf8ff"
)
_SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffd\ud800-\udfff]|&[#0-9A-Za-z]+;"
    rf"|[{_LEAD}][ {_LEAD}]"
)


@cache
def _ftfy():
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
    return lambda text: ftfy.fix_text(text, config=settings)


def repair(text: str) -> str:
    """Returns `text` repaired; the very same object where there is nothing to repair."""
    if text.isascii() and "&" not in text and text.isprintable() or not _SUSPECT.search(text):
        return text
    fixed = _ftfy()(text)
    return text if fixed == text else fixed
