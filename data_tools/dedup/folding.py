"""Fold characters for comparison: what two renderings of one text differ in goes, the same on every machine.

NFKC, lower case, no accents; format characters are deleted (soft hyphens, zero-width spaces and joiners, directions,
variation selectors), a word that was hyphenated at a line end is whole again, and white space between two characters
of a script written without spaces goes, so that a line break there changes nothing.

All of it is derived from `unicodedata.ucd_3_2_0`, which every Python ships unchanged, so that a newer Python with a
newer Unicode version still computes the same signatures. `DIGEST` pins the table; `VERSION` counts the rules.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from data_tools.clean.scripts import UNSPACED_SCRIPTS

CODE_POINTS = 0x110000
SEPARATOR = 0  # white space, punctuation, symbols, controls
DELETE = 1  # combining diacritics ("é" written with one code point or with two folds to "e"), format characters
UNSPACED = 1 << 31  # flag: script written without spaces, each character is a token of its own
COMPOSE = 1 << 30  # flag: becomes several characters under NFKC, or one with the character before it
MARKS = range(0x300, 0x370)
LONGEST_SPACE = 256  # characters of white space that are looked over in unspaced scripts
DIGEST = "0f6e34e7375023fb"  # first half-line of the SHA-256 of the table as little-endian uint32
VERSION = f"2-{DIGEST}"  # stored with everything that was computed from folded text

_DATABASE = unicodedata.ucd_3_2_0
# Unicode's Default_Ignorable_Code_Point (but the marks above, which go anyway) and the annotation marks, as ranges
_IGNORABLE = """
AD 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF9-FFFB 1D173-1D17A
E0000-E0FFF"""
_WHITE = "9-D 1C-20 85 A0 1680 2000-200A 2028-2029 202F 205F 3000"
_LINE_HYPHEN = re.compile("[-\u2010\u00ad]\n[ \t]*")


def _ranges(text: str) -> list[range]:
    ends = [[int(end, 16) for end in part.split("-")] for part in text.split()]
    return [range(pair[0], pair[-1] + 1) for pair in ends]


def _fold_one(char: str) -> int:
    if (
        _DATABASE.category(char) == "Cn"
    ):  # unknown to Unicode 3.2: kept as it is, whatever a newer version knows about it
        return ord(char)
    parts = [c for c in _DATABASE.normalize("NFKD", char) if ord(c) not in MARKS]
    whole = _DATABASE.normalize("NFKC", char)
    if len(parts) > 1 and len(whole) == 1:  # e.g. a kana with its sound mark
        parts = [whole]
    if all(_DATABASE.category(c)[0] in "ZPSC" for c in parts):
        return SEPARATOR if parts else DELETE
    if len(parts) > 1:
        return COMPOSE | ord(char)
    lower = parts[0].lower()
    return ord(lower) if len(lower) == 1 else ord(parts[0])


def _second_parts() -> set[int]:
    """Returns the characters that NFKC may join to the one before them, `MARKS` left out: they are deleted anyway."""
    out = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3), 0xFF9E, 0xFF9F}  # Hangul vowels and ends, half-width marks
    for code in (*range(0x3400), *range(0xF900, 0x20000)):
        parts = _DATABASE.decomposition(chr(code)).split()
        if parts and not parts[0].startswith("<"):
            out.update(int(p, 16) for p in parts[1:])
    return out - set(MARKS)


@cache
def table() -> np.ndarray:
    """Returns the folding table `[0x110000] uint32`: folded code point, `SEPARATOR`, `DELETE`, with its flags.

    Raises:
        RuntimeError: this Python derives another table than the one that signatures are defined by.
    """
    out = np.arange(CODE_POINTS, dtype=np.uint32)  # ideographs and Hangul syllables fold to themselves
    for start, stop in ((0, 0x3400), (0xA000, 0xAC00), (0xD7A4, 0x20000), (0x2F800, 0x2FA20)):
        out[start:stop] = [_fold_one(chr(c)) for c in range(start, stop)]
    out[0xF0000:] = SEPARATOR  # private use planes
    for start, stop in UNSPACED_SCRIPTS:
        block = out[start:stop]
        block[block > DELETE] |= UNSPACED
    folded = out & np.uint32(CODE_POINTS * 2 - 1)
    for start, stop in UNSPACED_SCRIPTS:  # what folds into such a script is of it: radicals, half-width kana
        out[(folded >= start) & (folded < stop) & (folded > DELETE)] |= UNSPACED
    out[sorted(_second_parts())] |= COMPOSE
    for codes in (MARKS, *_ranges(_IGNORABLE)):
        out[codes.start : codes.stop] = DELETE
    digest = hashlib.sha256(out.astype("<u4").tobytes()).hexdigest()
    if not digest.startswith(DIGEST):
        raise RuntimeError(f"character folding table has digest {digest[:16]}, signatures are defined by {DIGEST}")
    return out


@cache
def white() -> np.ndarray:
    """Returns which code points are white space, `[0x110000] bool`."""
    out = np.zeros(CODE_POINTS, bool)
    for codes in _ranges(_WHITE):
        out[codes.start : codes.stop] = True
    return out


@cache
def _composing() -> re.Pattern:
    """Matches a character with all that may join it under NFKC, and a character that becomes several."""
    codes = np.flatnonzero(table() & COMPOSE * (table() != DELETE))
    cuts = np.flatnonzero(np.diff(codes) > 1)
    runs = zip(codes[np.concatenate([[0], cuts + 1])], codes[np.concatenate([cuts, [len(codes) - 1]])])
    group = "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in runs)
    return re.compile(f"[^\\x00- ]?[{group}]+")


def _joined(match: re.Match) -> str:
    """Returns what stands for a hyphen at a line end: nothing inside a word, itself elsewhere."""
    text, start, stop = match.string, match.start(), match.end()
    if not start or stop == len(text) or _DATABASE.category(text[stop]) != "Ll":
        return match[0]
    return "" if _DATABASE.category(text[start - 1])[0] == "L" else match[0]


def _composed(match: re.Match) -> str:
    return _DATABASE.normalize("NFKC", match[0])


def _rewritten(text: str, places: np.ndarray, pattern: re.Pattern, new: Callable[[re.Match], str]) -> tuple:
    """Returns `pattern.sub(new, text)`, and beside each character where it began and ended, `[2, characters]`."""
    parts, kept, at = [], [], 0
    for match in pattern.finditer(text):
        piece = new(match)
        parts += [text[at : match.start()], piece]
        kept.append(places[:, at : match.start()])
        if piece:
            ends = places[0, match.start()], places[1, match.end() - 1]
            kept.append(np.repeat(np.array(ends)[:, None], len(piece), axis=1))
        at = match.end()
    return "".join([*parts, text[at:]]), np.concatenate([*kept, places[:, at:]], axis=1)


def _codes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the code points of texts with a NUL after each, and where each text begins `[n + 1]`."""
    joined = "\0".join(texts) + "\0"
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(t) + 1 for t in texts], out=offsets[1:])
    return np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4"), offsets


def _inner_space(codes: np.ndarray, folded: np.ndarray) -> np.ndarray:
    """Returns the positions `[k]` of white space between two characters of scripts written without spaces."""
    unspaced = np.flatnonzero(folded >= UNSPACED)
    gaps = np.diff(unspaced)
    near = np.flatnonzero((gaps > 1) & (gaps <= LONGEST_SPACE))
    near = near[white()[codes[unspaced[near] + 1]]]
    before, widths = unspaced[near], gaps[near] - 1
    if not len(before):
        return before
    starts = np.cumsum(widths) - widths
    inner = np.arange(widths.sum()) - np.repeat(starts - before - 1, widths)
    return inner[np.repeat(np.logical_and.reduceat(white()[codes[inner]], starts), widths)]


def _kept(codes: np.ndarray, folded: np.ndarray) -> np.ndarray | None:
    """Returns the positions that stay when marks, format and inner white space go; None where all do."""
    stays = None
    gone = folded == DELETE
    if gone.any():
        stays = np.flatnonzero(~gone)
        codes, folded = codes[stays], folded[stays]
    if folded.max(initial=0) >= UNSPACED:
        gone = _inner_space(codes, folded)
        if len(gone):
            stays = np.delete(np.arange(len(folded)) if stays is None else stays, gone)
    return stays


def _may_hyphenate(text: str) -> bool:
    return "-\n" in text or (not text.isascii() and ("\u00ad\n" in text or "\u2010\n" in text))


def fold(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Folds texts into one array of code points.

    Args:
        texts: n strings; lone surrogates count as separators.

    Returns:
        folded `[N] uint32` with one `SEPARATOR` between texts and no deleted characters, and offsets `[n + 1] int64`:
        text i is `folded[offsets[i] : offsets[i + 1]]` (its trailing separator included).
    """
    hyphens = [i for i, text in enumerate(texts) if _may_hyphenate(text)]
    if hyphens:
        texts = list(texts)
        for i in hyphens:
            texts[i] = _LINE_HYPHEN.sub(_joined, texts[i])
    codes, offsets = _codes(texts)
    folded = table().take(codes)
    if all(map(str.isascii, texts)):
        return folded, offsets
    if folded.max(initial=0) >= COMPOSE:
        compose = np.flatnonzero(folded & COMPOSE)
        if len(compose):
            texts = list(texts)
            for i in np.unique(np.searchsorted(offsets, compose, "right") - 1).tolist():
                texts[i] = _composing().sub(_composed, texts[i])
            codes, offsets = _codes(texts)
            folded = table().take(codes) & ~np.uint32(COMPOSE)
    stays = _kept(codes, folded)
    if stays is not None:
        offsets = np.searchsorted(stays, offsets)
        folded = folded[stays]
    return folded, offsets


def token_starts(folded: np.ndarray) -> np.ndarray:
    """Returns `[N] bool`: where a token begins in folded text."""
    word, unspaced = folded != SEPARATOR, folded >= UNSPACED
    start = word.copy()
    start[1:] &= ~word[:-1] | unspaced[1:] | unspaced[:-1]
    return start


def token_spans(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each token of a text begins and ends in it, `[T] int64` each, in characters."""
    places = np.stack([np.arange(len(text)), np.arange(len(text)) + 1])
    text, places = _rewritten(text, places, _LINE_HYPHEN, _joined)
    text, places = _rewritten(text, places, _composing(), _composed)
    codes, _ = _codes([text])
    folded = table().take(codes) & ~np.uint32(COMPOSE)
    stays = _kept(codes, folded)
    stays = np.arange(len(folded)) if stays is None else stays
    folded = folded[stays]
    word, start = folded != SEPARATOR, token_starts(folded)
    end = word & np.append(start[1:] | ~word[1:], True)
    return places[0, stays[start]], places[1, stays[end]]
