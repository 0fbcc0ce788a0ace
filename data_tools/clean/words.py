"""Split text into words, once for all rules: every word becomes a number whose properties are in tables.

Scripts with spaces are split the way English tokenizers of the field split (punctuation off both ends, contractions
and hyphenated words apart, abbreviations and addresses whole), so that published thresholds mean here what they meant
there. A piece between two spaces is taken apart once and remembered. Scripts without spaces are cut by a segmenter
(`jieba`) or character by character.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np

from data_tools.clean import characters
from jaxpt.errors import JaxptError, nearest

LONGEST_PIECE = 4096  # characters between two spaces; a longer run is one word
REMEMBERED = 1 << 20  # words and pieces a vocabulary may hold before it is emptied
SEGMENT = 1 << 16  # characters given to the segmenter at a time

_MARKS = r",:;!?¿؟¡()\[\]{}<>_#*&。？！，、；：～·।،۔؛٪…'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_PICTURES = "¦©®°\u2100-\u214f\u2195-\u21ff\u2300-\u2bff\u3200-\u33ff\U0001f000-\U0001faff"
_MONEY = "$£€¥฿\u20a0-\u20bf"
_HEAD = re.compile(rf"\.\.+|US\$|C\$|A\$|\+(?![0-9])|[§%=—–{_MARKS}{_PICTURES}{_MONEY}]")
_TAIL_CHARACTER = re.compile(rf"[—–{_MARKS}{_PICTURES}]")
_TAIL = re.compile(
    r"(?<=[0-9])(?:[kdcmµn]?m[²³]?|ha|yd|in|ft|[kmµ]?g|t|lb|oz|m/s|km/h|kmh|mph|h?Pa|mbar|[kKmMgGtT][bB]|[TGMK]|[ap]m|%|\+"
    rf"|[{_MONEY}])$"
)
_SOFT_END = re.compile(rf"[^\W\dA-Z_]|[0-9%²+\-{_MARKS}]")  # a full stop after one of these ends a sentence
_PLAIN_TAILS = ',;:?!)"”'
_CLITIC = re.compile(r"(?i)(n['’]t|['’](?:s|ll|re|ve|m|d))$")
_NOT = re.compile(
    r"(?i)(?:ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|ought|sha|should|was|were|wo|would|may|dare)n['’]t$"
)
_HOST = re.compile(
    r"(?:[\w+.\-]{2,}://)?(?:[^\s@]+@)?(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]*\.)+[a-z\u00df-\u024f]{2,63}"
    r"(?::\d{2,5})?(?:[/?#]\S*)?$|(?:[\w+.\-]{2,}://)?[1-9]\d{0,2}(?:\.\d{1,3}){3}(?::\d{2,5})?(?:[/?#]\S*)?$"
)
_INSIDE = re.compile(
    rf"\.\.+|…|[{_PICTURES}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[^\W\dA-Z_'\"”“`‘´’])\.(?=[A-Z'\"”“`‘´’])"
    r"|(?<=[^\W\d_]),(?=[^\W\d_])|(?<=[^\W_])(?:---?|[-–—~]|——)(?=[^\W\d_])|(?<=[^\W_])[:<>=/](?=[^\W\d_])"
)
_LETTERS = {f"{c}." for c in "abcdefghijklmnopqrstuvwxyzäöü"}
_WHOLE = """
Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Ky.
La. Mar. Mass. Mich. Minn. Miss. Neb. Nev. Nov. Oct. Okla. Ore. Pa. Sep. Sept. Tenn. Va. Wash. Wis. a.m. p.m. Adm. Bros.
co. Co. Corp. Dr. e.g. E.g. Gen. Gov. i.e. I.e. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev.
Sen. St. vs. v.s. and/or w/o C++ 's 'S ’s 'll 're 'd 'em :) ;) :( :D :P ;-) :-) :/ ): :] '' <3"""
_ABBREVIATIONS = frozenset(_WHOLE.split()) | _LETTERS
_TOGETHER = {"cannot": ("can", "not"), "Cannot": ("Can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta")}


def _ends(piece: str, low: int, high: int) -> int:
    """Returns where the last mark of `piece[low:high]` begins, or `high` when it ends without one."""
    last = piece[high - 1]
    if last.isascii() and piece[low:high].isalpha() and piece[low:high].isascii():
        return high  # most of the time
    if last == ".":
        begin = high - 1
        while begin > low and piece[begin - 1] == ".":
            begin -= 1
        if high - begin > 1 or begin == low:
            return begin
        before = piece[begin - 1]
        upper = begin - 2 >= low and before.isupper() and piece[begin - 2].isupper()
        return begin if upper or _SOFT_END.match(before) else high
    if _TAIL_CHARACTER.match(last):
        return high - 1
    if last in "sS" and high - low > 2 and piece[high - 2] in "'’":
        return high - 2
    match = _TAIL.search(piece, max(low, high - 6), high)
    return match.start() if match and match.start() > low else high


def _core(piece: str) -> Iterable[str]:
    """Takes apart what is left between the marks at both ends."""
    if piece in _TOGETHER:
        return _TOGETHER[piece]
    if piece.isascii() and piece.isalnum():
        return (piece,)
    if "." in piece and _HOST.match(piece):
        return (piece,)
    if "'" in piece or "’" in piece:
        match = _CLITIC.search(piece)
        if match and match.start() and (match[1][0] in "'’" or _NOT.match(piece)):
            return (*_core(piece[: match.start()]), match[1])
    out, at = [], 0
    for match in _INSIDE.finditer(piece):
        if match.start():
            out += [part for part in (piece[at : match.start()], match[0]) if part]
            at = match.end()
    out.append(piece[at:])
    return [part for part in out if part]


def split_piece(piece: str) -> list[str]:
    """Splits a run of characters without white space into words, in time linear in its length."""
    if len(piece) > LONGEST_PIECE or (piece.isalpha() and piece not in _TOGETHER) or piece.isdigit():
        return [piece]
    stem = piece.rstrip(_PLAIN_TAILS)  # nearly every word before a mark ends here
    word = stem[:-1] if stem[-1:] == "." else stem
    plain = word.isalpha() and piece not in _ABBREVIATIONS and stem not in _ABBREVIATIONS
    if plain and (word is stem or word[-1].islower()):
        return [*_TOGETHER.get(word, (word,)), *piece[len(word) :]]
    heads: list[str] = []
    tails: list[str] = []
    low, high = 0, len(piece)
    while low < high:
        rest = piece[low:high] if high - low < 16 else ""
        if rest in _ABBREVIATIONS:
            break
        match = _HEAD.match(piece, low, high)
        if match:
            heads.append(match[0])
            low = match.end()
            if low >= high or piece[low:high] in _ABBREVIATIONS:
                break
        begin = _ends(piece, low, high)
        if begin < high:
            tails.append(piece[begin:high])
            high = begin
        elif not match:
            break
    if low < high:
        core = piece[low:high]
        heads += [core] if core in _ABBREVIATIONS else _core(core)
    return heads + tails[::-1]


@cache
def _jieba() -> Callable[[str], list[str]]:
    try:
        import rjieba
    except ImportError as error:
        raise JaxptError(
            "clean: segmenter=jieba needs rjieba; pip install rjieba, or set segmenter=characters"
        ) from error
    return rjieba.cut


_JIEBA_JOINS = re.compile(r"[+#&._%\-]")
_JIEBA_RUN = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")
_JIEBA_WHOLE = frozenset(("AT&T", "c#", "C#", "c++", "C++"))  # all such words of its dictionary


def _jieba_parts(word: str) -> list[str]:
    """Splits what jieba splits and its Rust port leaves together: `d2l-en`, `npx.set_np`, `3.5GHz`."""
    if word in _JIEBA_WHOLE or not _JIEBA_JOINS.search(word):
        return [word]
    return [part for part in _JIEBA_RUN.split(word) if part]


_CHARACTERS = re.compile(rf"[{characters.UNSPACED_CLASS}]|[^{characters.UNSPACED_CLASS}]+")


def _split_unspaced(piece: str) -> list[str]:
    """Splits a piece in which every character of an unspaced script is a word."""
    out: list[str] = []
    for part in _CHARACTERS.findall(piece):
        out += [part] if characters.unspaced(part[0]) else split_piece(part)
    return out


SEGMENTERS = ("spaces", "characters", "jieba")


@dataclass(frozen=True)
class Words:
    """The words of n texts end to end, as numbers, with the properties of each number."""

    ids: np.ndarray  # [N] int32
    lines: np.ndarray  # [lines + 1] int64: where each line's words begin
    texts: np.ndarray  # [n + 1] int64: where each text's lines begin, in `lines`
    lengths: np.ndarray  # [V] int32: characters
    flags: np.ndarray  # [V] uint8: see `characters`
    number: Callable[[str], int | None]  # the id of a word, None if it did not occur

    @property
    def offsets(self) -> np.ndarray:
        """Where each text's words begin, `[n + 1] int64`."""
        return self.lines[self.texts]


class _Pieces(dict[str, tuple[int, ...]]):
    """Pieces taken apart when they are first asked for, and remembered unless they are very long."""

    def __init__(self, learn: Callable[[str], tuple[int, ...]]):
        self._learn = learn

    def __missing__(self, piece: str) -> tuple[int, ...]:
        out = self._learn(piece)
        if len(piece) <= LONGEST_PIECE:
            self[piece] = out
        return out


class Vocabulary:
    """Numbers for words; forgets everything between two calls once it grew past `REMEMBERED`."""

    def __init__(self, segmenter: str = "spaces"):
        if segmenter not in SEGMENTERS:
            raise JaxptError(
                f"clean: segmenter={segmenter!r} is none of {', '.join(SEGMENTERS)}" + nearest(segmenter, SEGMENTERS)
            )
        self._segmenter = segmenter
        self._cut = _jieba() if segmenter == "jieba" else None
        self._split = split_piece if segmenter == "spaces" else _split_unspaced
        self._forget()

    def _forget(self) -> None:
        self._ids: dict[str, int] = {}
        self._pieces = _Pieces(self._learn)
        self._lengths: list[int] = []
        self._flags: list[int] = []
        self._tables = (np.zeros(0, np.int32), np.zeros(0, np.uint8))

    def _number(self, word: str) -> int:
        number = self._ids.get(word)
        if number is None:
            number = self._ids[word] = len(self._ids)
            self._lengths.append(len(word))
            self._flags.append(characters.flags(word))
        return number

    def _learn(self, piece: str) -> tuple[int, ...]:
        """Returns the numbers of the words in a piece."""
        if piece.isascii() and piece.isalpha() and piece not in _TOGETHER:
            return (self._number(piece),)  # most pieces, however they are split
        return tuple(map(self._number, self._split(piece)))

    def _add_line(self, line: str, out: list[int]) -> None:
        """Appends the numbers of a line's words to `out`."""
        if self._cut:
            for start in range(0, len(line), SEGMENT):
                for word in self._cut(line[start : start + SEGMENT]):
                    if not word.isspace():
                        out.extend(map(self._number, _jieba_parts(word)))
            return
        out.extend(chain.from_iterable(map(self._pieces.__getitem__, line.split())))

    def words(self, texts: Sequence[str], memory: dict[str, list[int]] | None = None) -> Words:
        """Splits `texts` into words, line by line.

        Args:
            texts: n texts.
            memory: lines split before, for texts of which an edit has since cut some; give the same dictionary to all
                calls for one batch, and a new one for the next batch.
        """
        if not memory and len(self._ids) + len(self._pieces) > REMEMBERED:
            self._forget()
        flat: list[int] = []
        lines, counts = [0], []
        for text in texts:
            mine = text.splitlines()
            counts.append(len(mine))
            for line in mine:
                if memory is None:
                    self._add_line(line, flat)
                else:
                    line = line.strip()
                    known = memory.get(line)
                    if known is None:
                        before = len(flat)
                        self._add_line(line, flat)
                        memory[line] = flat[before:]
                    else:
                        flat += known
                lines.append(len(flat))
        done = len(self._tables[0])
        self._tables = tuple(
            np.concatenate([table, np.array(new[done:], table.dtype)])
            for table, new in zip(self._tables, (self._lengths, self._flags))
        )
        ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return Words(np.array(flat, np.int32), np.array(lines), ends, *self._tables, self._ids.get)
