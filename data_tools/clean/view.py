"""What all rules look at: the texts of one batch with their lines and words, each worked out once and on demand."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from data_tools.clean import characters, repetition
from data_tools.clean.repetition import duplicates
from data_tools.clean.words import Vocabulary, Words

_BLANK_LINES = re.compile(r"\n{2,}")
_LINE_ENDS = re.compile(r"\n+")


class View:
    """Texts and their parts; arrays are over the n texts of the batch unless a comment says otherwise."""

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        ngrams: Sequence[str] = (),
        stretch: float = 1.0,
        field: Callable[[str], list[str | None]] | None = None,
        memory: dict[str, list[int]] | None = None,
    ):
        """Makes a view.

        Args:
            texts: n texts.
            vocabulary: splits them into words.
            ngrams: the n-gram measures wanted.
            stretch: characters of an unspaced script that make a word, where each is split off.
            field: from a field's name to its values.
            memory: lines of this batch split before.
        """
        self._memory = memory
        self.texts, self._vocabulary, self._ngrams, self._stretch = texts, vocabulary, tuple(ngrams), stretch
        self.field = field or (lambda name: [None] * len(texts))
        self.columns: dict[str, list] = {}  # what measures found out about each text, added to the records

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def characters(self) -> np.ndarray:
        """Characters, `[n] int64`."""
        return np.array([len(t) for t in self.texts], np.int64)

    @cached_property
    def words(self) -> Words:
        """The words."""
        return self._vocabulary.words(self.texts, self._memory)

    @cached_property
    def all_counts(self) -> np.ndarray:
        """Words, marks included, `[n] int64`."""
        return np.diff(self.words.offsets)

    @cached_property
    def word_counts(self) -> np.ndarray:
        """Words, marks included; of single characters only as many as they would make words, `[n] float64`."""
        return self.all_counts - self._surplus

    @cached_property
    def _surplus(self) -> np.ndarray:
        if self._stretch == 1.0:
            return np.zeros(len(self))
        return self.count_words((self.word_flags & characters.UNSPACED) > 0) * (1 - 1 / self._stretch)

    @cached_property
    def word_flags(self) -> np.ndarray:
        """What each word is, `[N] uint8`."""
        return self.words.flags[self.words.ids]

    @cached_property
    def word_lengths(self) -> np.ndarray:
        """Characters of each word, `[N] int32`."""
        return self.words.lengths[self.words.ids]

    def count_words(self, which: np.ndarray) -> np.ndarray:
        """Returns the sum of `which [N]` over each text's words, `[n] int64`."""
        return self.sum(which, self.words.offsets)

    @staticmethod
    def sum(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Returns the sums of `values[offsets[i] : offsets[i + 1]]`."""
        total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return total[offsets[1:]] - total[offsets[:-1]]

    @cached_property
    def proper(self) -> np.ndarray:
        """True for each word that is not made of marks alone, `[N] bool`."""
        return (self.word_flags & characters.SYMBOL) == 0

    @cached_property
    def proper_counts(self) -> np.ndarray:
        """Words that are not made of marks alone, counted like `word_counts`, `[n] float64`."""
        return self.count_words(self.proper) - self._surplus

    @cached_property
    def split_lines(self) -> list[list[str]]:
        """The lines of each text, by every kind of line break."""
        return [t.splitlines() for t in self.texts]

    @cached_property
    def full_lines(self) -> list[list[str]]:
        """The lines of each text that hold more than white space, cut at line feeds."""
        return [[l for l in t.split("\n") if l and not l.isspace()] for t in self.texts]

    @cached_property
    def runs_of_lines(self) -> list[list[str]]:
        """Each text cut at runs of line feeds."""
        return [_LINE_ENDS.split(t) if "\n\n" in t else t.split("\n") for t in self.texts]

    @cached_property
    def paragraphs(self) -> list[list[str]]:
        """Each text cut at blank lines."""
        return [_BLANK_LINES.split(t.strip()) for t in self.texts]

    @cached_property
    def line_words(self) -> np.ndarray:
        """Proper words of each line, `[lines] int64`."""
        return self.sum(self.proper, self.words.lines)

    def count_lines(self, which: np.ndarray) -> np.ndarray:
        """Returns the sum of `which [lines]` over each text's lines, `[n] int64`."""
        return self.sum(which, self.words.texts)

    @cached_property
    def line_counts(self) -> np.ndarray:
        """Lines, `[n] int64`."""
        return np.diff(self.words.texts)

    @cached_property
    def full_line_counts(self) -> np.ndarray:
        """Lines that hold more than white space, `[n] int64`."""
        return np.array([len(lines) for lines in self.full_lines], np.int64)

    def duplicates(self, parts: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns repeats among `paragraphs` or `runs_of_lines` and their characters, `[n] int64` each."""
        if parts not in self._duplicates:
            self._duplicates[parts] = duplicates(getattr(self, parts))
        return self._duplicates[parts]

    @cached_property
    def _duplicates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    @cached_property
    def ngrams(self) -> dict[str, np.ndarray]:
        """Shares of characters in n-grams, `[n] float64` by name (`top_2_gram`, `repeated_5_gram`, …)."""
        shares = repetition.ngram_shares(self.words, self._ngrams, self._stretch)
        return {name: ratio(size, self.characters) for name, size in shares.items()}

    @cached_property
    def classes(self) -> np.ndarray:
        """The class of every character of all texts, `[N] uint8`."""
        codes = np.frombuffer("".join(self.texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        return characters.classes().take(codes)

    def count_class(self, which: int) -> np.ndarray:
        """Returns how many characters of a class each text has, `[n] int64`."""
        if which not in self._counts:
            ends = np.concatenate([[0], np.cumsum(self.characters)])
            self._counts[which] = self.sum((self.classes & which) > 0, ends)
        return self._counts[which]

    @cached_property
    def _counts(self) -> dict[int, np.ndarray]:
        return {}


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns `part / whole` in float64, 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=np.asarray(whole) > 0)
