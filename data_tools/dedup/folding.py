"""Fold characters for comparison: one table from code point to folded code point, the same on every machine.

The table is derived from `unicodedata.ucd_3_2_0`, which every Python ships unchanged, so that a newer Python with a
newer Unicode version still computes the same signatures. `DIGEST` pins it.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

from data_tools.clean.scripts import UNSPACED_SCRIPTS

CODE_POINTS = 0x110000
SEPARATOR = 0  # white space, punctuation, symbols, controls
DELETE = 1  # combining diacritics: "é" written with one code point or with two folds to "e"
UNSPACED = 1 << 31  # flag: script written without spaces, each character is a token of its own
MARKS = range(0x300, 0x370)
DIGEST = "80e3a4331f8df323"  # first half-line of the SHA-256 of the table as little-endian uint32


def _fold_one(char: str) -> int:
    database = unicodedata.ucd_3_2_0
    if ord(char) in MARKS:
        return DELETE
    category = database.category(char)
    if category[0] in "ZPSC" and category != "Cn":
        return SEPARATOR
    if category == "Cn":  # unknown to Unicode 3.2: kept as it is, whatever a newer version knows about it
        return ord(char)
    base = [c for c in database.normalize("NFKD", char) if ord(c) not in MARKS]
    lower = (base[0] if len(base) == 1 else char).lower()
    return ord(lower) if len(lower) == 1 else ord(char)


@cache
def table() -> np.ndarray:
    """Returns the folding table `[0x110000] uint32`: folded code point, `SEPARATOR`, `DELETE`, or-ed with `UNSPACED`.

    Raises:
        RuntimeError: this Python derives another table than the one that signatures are defined by.
    """
    out = np.arange(CODE_POINTS, dtype=np.uint32)  # ideographs and Hangul syllables fold to themselves
    for start, stop in ((0, 0x3400), (0xA000, 0xAC00), (0xD7A4, 0x20000), (0xE0000, 0xE0200)):
        out[start:stop] = [_fold_one(chr(c)) for c in range(start, stop)]
    out[0xF0000:] = SEPARATOR  # private use planes
    for start, stop in UNSPACED_SCRIPTS:
        block = out[start:stop]
        block[block > DELETE] |= UNSPACED
    digest = hashlib.sha256(out.astype("<u4").tobytes()).hexdigest()
    if not digest.startswith(DIGEST):
        raise RuntimeError(f"character folding table has digest {digest[:16]}, signatures are defined by {DIGEST}")
    return out


def fold(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Folds texts into one array of code points.

    Args:
        texts: n strings; lone surrogates count as separators.

    Returns:
        folded `[N] uint32` with one `SEPARATOR` between texts and no deleted marks, and offsets `[n + 1] int64`:
        text i is `folded[offsets[i] : offsets[i + 1]]` (its trailing separator included).
    """
    joined = "\n".join(texts) + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    folded = table().take(codes)
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(t) + 1 for t in texts], out=offsets[1:])
    deleted = np.flatnonzero(folded == DELETE)
    if len(deleted):
        offsets -= np.searchsorted(deleted, offsets)
        folded = np.delete(folded, deleted)
    return folded, offsets
