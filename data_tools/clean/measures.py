"""What the rules measure: one function per quantity, from a view of a batch to a value per text.

`MEASURES` names them all, with the range that their histograms show. Thresholds are in the presets, never here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.clean import addresses, characters
from data_tools.clean.language import SHIPPED, identifier, sample
from data_tools.clean.repetition import NAMES, duplicates
from data_tools.clean.view import View, ratio

Values = np.ndarray  # [n] float64
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Quantity:
    """A quantity, the range of its histogram, and what its options are called (with their defaults)."""

    function: Callable[[View, Options], Values]
    about: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    options: tuple[tuple[str, Any], ...] = ()


def _words(view: View, options: Options) -> Values:
    return view.proper_counts.astype(float)


def _mean_word_length(view: View, options: Options) -> Values:
    return ratio(view.count_words(view.word_lengths * view.proper), view.proper_counts)


def _occurrences(*needles: str) -> Callable[[View, Options], Values]:
    def measure(view: View, options: Options) -> Values:
        counts = np.array([sum(t.count(n) for n in needles) for t in view.texts])
        return ratio(counts, view.word_counts)

    return measure


def _bullet_lines(view: View, options: Options) -> Values:
    bullets = tuple(options["bullets"])
    counts = [sum(l.lstrip().startswith(bullets) for l in lines) for lines in view.split_lines]
    return ratio(np.array(counts), view.line_counts)


def _ellipsis_lines(view: View, options: Options) -> Values:
    counts = [
        sum(l.rstrip().endswith(("...", "…")) for l in lines) if "..." in t or "…" in t else 0
        for t, lines in zip(view.texts, view.split_lines)
    ]
    return ratio(np.array(counts), view.line_counts)


def _alphabetic_words(view: View, options: Options) -> Values:
    return ratio(view.count_words(view.word_flags & characters.ALPHABETIC), view.all_counts)


def _stop_ids(view: View, options: Options) -> np.ndarray:
    numbers = [view.words.number(word) for word in options["words"]]
    return np.array([n for n in numbers if n is not None], np.int32)


def _stop_words(view: View, options: Options) -> Values:
    """Distinct stop words, as written (case counts); with `inside`, also as parts of words (particles)."""
    if options["inside"]:
        return np.array([float(sum(word in t for word in options["words"])) for t in view.texts])
    total = np.zeros(len(view), np.int64)
    for number in _stop_ids(view, options):
        total += view.count_words(view.words.ids == number) > 0
    return total.astype(float)


def _stop_word_uses(view: View, options: Options) -> Values:
    """Uses of stop words, repeated ones too."""
    return view.count_words(np.isin(view.words.ids, _stop_ids(view, options))).astype(float)


def _duplicate_share(parts: str, what: int) -> Callable[[View, Options], Values]:
    def measure(view: View, options: Options) -> Values:
        repeated = view.duplicates(parts)
        if what == 0:
            return ratio(repeated[0], np.array([len(p) for p in getattr(view, parts)]))
        return ratio(repeated[1], view.characters)

    return measure


def _repeated_line_characters(view: View, options: Options) -> Values:
    whole = np.array([len(t) - t.count("\n") for t in view.texts])
    return ratio(duplicates(view.full_lines)[1], whole)


def _ngram(name: str) -> Callable[[View, Options], Values]:
    return lambda view, options: view.ngrams[name]


def _punctuated_lines(view: View, options: Options) -> Values:
    ends = frozenset(options["ends"]) if options["ends"] else characters.TERMINALS
    counts = np.array([sum(l[-1] in ends for l in lines) for lines in view.full_lines])
    share = ratio(counts, view.full_line_counts)
    return np.where(share > 0, share, 1.0) if options["zero_passes"] else share


def _short_lines(view: View, options: Options) -> Values:
    length = options["length"]
    counts = np.array([sum(len(l) <= length for l in lines) for lines in view.full_lines])
    return ratio(counts, view.full_line_counts)


def _line_breaks_per_word(view: View, options: Options) -> Values:
    return ratio(np.array([t.count("\n") for t in view.texts]), view.word_counts)


def _sentences(view: View, options: Options) -> Values:
    """Sentences, line by line: one, and one more for each word that follows an end mark in its line."""
    flags, words = view.word_flags, view.words
    terminal = (flags & characters.TERMINAL) > 0
    counted = np.flatnonzero(terminal | ((flags & characters.PUNCTUATION) == 0))
    line = np.repeat(np.arange(len(words.lines) - 1), np.diff(words.lines))[counted]
    more = ~terminal[counted[1:]] & terminal[counted[:-1]] & (line[1:] == line[:-1])
    starts = np.zeros(len(flags), np.int64)
    starts[counted[1:][more]] = 1
    lines = (np.diff(words.lines) > 0).astype(np.int64)
    return (view.count_words(starts) + view.count_lines(lines)).astype(float)


def _characters(view: View, options: Options) -> Values:
    return view.characters.astype(float)


def _class_share(which: int) -> Callable[[View, Options], Values]:
    return lambda view, options: ratio(view.count_class(which), view.characters)


def _uppercase_letters(view: View, options: Options) -> Values:
    return ratio(view.count_class(characters.UPPER), view.count_class(characters.LETTER))


def _unspaced_share(view: View, options: Options) -> Values:
    """Share of letters that belong to scripts written without spaces (Han, kana, Thai, …)."""
    return ratio(view.count_class(characters.NO_SPACES), view.count_class(characters.LETTER))


def _longest_word(view: View, options: Options) -> Values:
    out = np.zeros(len(view))
    filled = view.all_counts > 0
    out[filled] = np.maximum.reduceat(view.word_lengths, view.words.offsets[:-1][filled]) if filled.any() else 0
    return out


def _pattern_characters(pattern: str, needs: str) -> Callable[[View, Options], Values]:
    compiled = re.compile(pattern)

    def measure(view: View, options: Options) -> Values:
        lengths = [sum(m.end() - m.start() for m in compiled.finditer(t)) if needs in t else 0 for t in view.texts]
        return ratio(np.array(lengths), view.characters)

    return measure


def _few_word_lines(view: View, options: Options) -> Values:
    """Share of lines with at most `words` words and no end mark: menus, tables of links, navigation bars."""
    counts = view.line_words
    few = (counts > 0) & (counts <= options["words"])
    ends = np.zeros(len(counts), bool)
    filled = np.flatnonzero(np.diff(view.words.lines) > 0)
    ends[filled] = (view.word_flags[view.words.lines[filled + 1] - 1] & characters.TERMINAL) > 0
    return ratio(view.count_lines(few & ~ends), view.count_lines(np.diff(view.words.lines) > 0))


def _words_per_line(view: View, options: Options) -> Values:
    return ratio(view.proper_counts, view.count_lines(view.line_words > 0))


_LOG_LINE = re.compile(
    r"(?:\[?\d{4}[-/.]\d{2}[-/.]\d{2}[T ,]\d{2}:\d{2}|\[?\d{2}:\d{2}:\d{2}[\].,:\s]"
    r"|[A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} "
    r"|\[?(?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|FATAL|CRITICAL)\b[\]:| ]"
    r"|\S+ \S+ \S+ \[\d{2}/[A-Z][a-z]{2}/\d{4}:|\[ *\d+\.\d{6}\]|at [\w$.]+\([\w.]+:\d+\)|Traceback \(most)"
)


def _log_lines(view: View, options: Options) -> Values:
    counts = np.array([sum(_LOG_LINE.match(l.lstrip()[:200]) is not None for l in lines) for lines in view.full_lines])
    return ratio(counts, view.full_line_counts)


def _listed_words(view: View, options: Options) -> Values:
    """Uses of the words and phrases in `words`, in small, capital or initial capital letters, per word."""
    counts = np.zeros(len(view), np.int64)
    single = [w for w in options["words"] if w.isalpha() and not characters.unspaced(w[0])]
    spellings = {form for w in single for form in (w, w.capitalize(), w.upper())}
    numbers = [view.words.number(w) for w in spellings]
    counts += view.count_words(np.isin(view.words.ids, [n for n in numbers if n is not None]))
    phrases = sorted(set(options["words"]) - set(single))
    if phrases:
        counts += np.array([sum(map(t.lower().count, phrases)) for t in view.texts])
    return ratio(counts, view.word_counts)


def _language(view: View, options: Options) -> Values:
    """Probability of the text's language where that is one of `keep`, else 0; the language becomes a column."""
    languages = identifier(options["model"])([sample(t, options["length"]) for t in view.texts])
    view.columns |= {
        "language": [label for label, _ in languages],
        "language_score": [round(p, 4) for _, p in languages],
    }
    keep = set(options["keep"])
    return np.array([p if not keep or label in keep else 0.0 for label, p in languages])


def _listed_address(view: View, options: Options) -> Values:
    """1 where the address or its domain is on a list (files of one entry a line), else 0."""
    domains, urls = (addresses.read_list(options[k]) if options[k] else frozenset() for k in ("domains", "urls"))
    domains |= frozenset(options["also"])
    return np.array([float(addresses.listed(url, domains, urls)) for url in view.field("url")])


def _address_words(view: View, options: Options) -> Values:
    """Bad words in the address: `hard` and `inside` count 2, `soft` 1."""
    lists = (frozenset(options["hard"]), frozenset(options["soft"]), tuple(options["inside"]))
    return np.array([addresses.word_score(url, *lists) for url in view.field("url")])


def _content_type(view: View, options: Options) -> Values:
    """0 where the field of the content type names one that is not in `keep`, else 1 (also where it is absent)."""
    keep = tuple(k.lower() for k in options["keep"])
    given = [(v or "").partition(";")[0].strip().lower() for v in view.field(options["field"])]
    return np.array([float(not v or v.startswith(keep)) for v in given])


STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_URL = r"(?:https?://|www\.)[^\s<>\"'）)\]]+"

MEASURES: dict[str, Quantity] = {
    "words": Quantity(_words, "words that are not made of marks alone", 1, 1e6, True),
    "characters": Quantity(_characters, "characters", 1, 1e7, True),
    "mean_word_length": Quantity(_mean_word_length, "characters per word", 0, 20),
    "longest_word": Quantity(_longest_word, "characters of the longest word", 1, 1e5, True),
    "hash_signs": Quantity(_occurrences("#"), "hash signs per word", 0, 0.5),
    "ellipses": Quantity(_occurrences("...", "…"), "ellipses per word", 0, 0.5),
    "bullet_lines": Quantity(_bullet_lines, "lines that begin with a bullet", options=(("bullets", ("•", "-")),)),
    "ellipsis_lines": Quantity(_ellipsis_lines, "lines that end with an ellipsis"),
    "alphabetic_words": Quantity(_alphabetic_words, "words with a letter"),
    "stop_words": Quantity(
        _stop_words, "distinct stop words", 0, 20, options=(("words", STOP_WORDS), ("inside", False))
    ),
    "stop_word_uses": Quantity(_stop_word_uses, "uses of stop words", 1, 1e5, True, (("words", STOP_WORDS),)),
    "duplicate_paragraphs": Quantity(_duplicate_share("paragraphs", 0), "paragraphs that occurred before"),
    "duplicate_paragraph_characters": Quantity(_duplicate_share("paragraphs", 1), "characters in such paragraphs"),
    "duplicate_lines": Quantity(_duplicate_share("runs_of_lines", 0), "lines that occurred before"),
    "duplicate_line_characters": Quantity(_duplicate_share("runs_of_lines", 1), "characters in such lines"),
    "punctuated_lines": Quantity(
        _punctuated_lines, "lines that end with an end mark", options=(("ends", ()), ("zero_passes", False))
    ),
    "short_lines": Quantity(_short_lines, "lines of at most `length` characters", options=(("length", 30),)),
    "repeated_line_characters": Quantity(_repeated_line_characters, "characters in filled lines seen before", 0, 0.5),
    "line_breaks_per_word": Quantity(_line_breaks_per_word, "line breaks per word", 0, 1),
    "sentences": Quantity(_sentences, "sentences", 1, 1e4, True),
    "few_word_lines": Quantity(_few_word_lines, "lines of few words without an end mark", options=(("words", 3),)),
    "words_per_line": Quantity(_words_per_line, "words per filled line", 0.5, 1e3, True),
    "symbol_characters": Quantity(
        _class_share(characters.OTHER), "characters other than letters, digits and white space"
    ),
    "digit_characters": Quantity(_class_share(characters.DIGIT), "digits among the characters"),
    "white_space": Quantity(_class_share(characters.SPACE), "white space among the characters"),
    "bracket_characters": Quantity(_class_share(characters.BRACKET), "parentheses among the characters", 0, 0.3),
    "uppercase_letters": Quantity(_uppercase_letters, "upper case among the letters"),
    "unspaced_letters": Quantity(_unspaced_share, "letters of scripts without spaces among the letters"),
    "address_characters": Quantity(_pattern_characters(_URL, "/"), "characters in web addresses"),
    "markup_characters": Quantity(_pattern_characters(r"</?[A-Za-z][^<>\n]{0,200}>", "<"), "characters in markup tags"),
    "log_lines": Quantity(_log_lines, "lines that look like those of a log file"),
    "safety_words": Quantity(_listed_words, "uses of listed words per word", 0, 0.1, options=(("words", ()),)),
    "language": Quantity(
        _language, "probability of a wanted language", options=(("keep", ()), ("model", SHIPPED), ("length", 400))
    ),
    "listed_address": Quantity(
        _listed_address, "address is on a list", options=(("domains", ""), ("urls", ""), ("also", ()))
    ),
    "address_words": Quantity(
        _address_words, "bad words in the address", 0, 10, options=(("hard", ()), ("soft", ()), ("inside", ()))
    ),
    "content_type": Quantity(
        _content_type, "wanted content type", options=(("field", "content_type"), ("keep", ("text/",)))
    ),
    **{name: Quantity(_ngram(name), f"characters in {name.replace('_', ' ')}s") for name in NAMES},
}
