"""What single characters are: the sets that rules use, each defined once."""

import unicodedata
from functools import cache

import numpy as np

from data_tools.clean.scripts import UNSPACED_SCRIPTS

ALPHABETIC, SYMBOL, TERMINAL, PUNCTUATION, UNSPACED = 1, 2, 4, 8, 16  # flags of a word

# Unicode property Sentence_Terminal (version 15.1), as ranges of code points in hexadecimal
_SENTENCE_TERMINAL = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D5 1803 1809
1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF
A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61
10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239
1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"""


def _characters(ranges: str) -> frozenset[str]:
    ends = [[int(end, 16) for end in part.split("-")] for part in ranges.split()]
    return frozenset(chr(c) for pair in ends for c in range(pair[0], pair[-1] + 1))


TERMINALS = _characters(_SENTENCE_TERMINAL)  # they end sentences, in any script

# Words made of these alone do not count as words: ASCII punctuation, controls, terminals and the common typographic and
# East Asian marks. Bullets, currency signs, arrows and pictures are left out on purpose: the published filters count
# them as words.
SYMBOLS = (
    TERMINALS
    | frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    | frozenset("—–’‘“”„«»…´∶►━％〈〉〉《》「」【】（），、：；～")
    | frozenset(map(chr, [*range(32), *range(127, 160)]))
) - frozenset("‘\n")

UNSPACED_CLASS = "".join(f"{chr(a)}-{chr(b - 1)}" for a, b in UNSPACED_SCRIPTS)  # for use inside [] of a pattern


@cache
def _punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] == "P"


def flags(word: str) -> int:
    """Returns what `word` is: the or of `ALPHABETIC`, `SYMBOL`, `TERMINAL`, `PUNCTUATION` and `UNSPACED`."""
    if word.isalpha():  # by far the most words
        return ALPHABETIC if word.isascii() or not unspaced(word[0]) else ALPHABETIC | UNSPACED
    out = ALPHABETIC if any(map(str.isalpha, word)) else 0
    out |= SYMBOL if SYMBOLS.issuperset(word) else 0
    out |= TERMINAL if word in TERMINALS else 0
    return out | (PUNCTUATION if all(map(_punctuation, word)) else 0)


def unspaced(char: str) -> bool:
    """Tells whether the script of `char` is written without spaces between words."""
    code = ord(char)
    return code >= 0x0E00 and any(a <= code < b for a, b in UNSPACED_SCRIPTS)


# Classes of single characters, for shares of characters.
LETTER, DIGIT, SPACE, BRACKET, OTHER, UPPER, NO_SPACES = 1, 2, 4, 8, 16, 32, 64


def _class_of(char: str) -> int:
    if char.isspace():
        return SPACE
    if char.isalpha():
        return LETTER | (UPPER if char.isupper() else 0) | (NO_SPACES if unspaced(char) else 0)
    if char.isdigit():
        return DIGIT
    if unicodedata.category(char)[0] == "M":  # vowel signs of Indic scripts, accents
        return LETTER
    return OTHER | (BRACKET if char in "()（）" else 0)


@cache
def classes() -> np.ndarray:
    """Returns the classes of all code points, `[0x110000] uint8`."""
    out = np.full(0x110000, OTHER, np.uint8)
    for start, stop in ((0, 0x3400), (0xA000, 0xAC00), (0xD7A4, 0xD800), (0xE000, 0x20000)):
        out[start:stop] = [_class_of(chr(c)) for c in range(start, stop)]
    out[0xAC00:0xD7A4] = LETTER
    out[0x3400:0x4DC0] = out[0x4E00:0xA000] = out[0x20000:0x32000] = LETTER | NO_SPACES
    return out
