"""Words and what is measured on them, against definitions written out plainly."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from data_tools.clean import characters
from data_tools.clean.measures import MEASURES
from data_tools.clean.repetition import NAMES
from data_tools.clean.view import View
from data_tools.clean.words import SEGMENTERS, Vocabulary, split_piece
from jaxpt.errors import JaxptError


def look(*texts, **kwargs):
    return View(texts, kwargs.pop("vocabulary", None) or Vocabulary(), list(NAMES), **kwargs)


def value(name, text, **options):
    measure = MEASURES[name]
    return float(measure.function(look(text), {**dict(measure.options), **options})[0])


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("word", "word"),
        ("end.", "end ."),
        ('("Quoted,"', '( " Quoted , "'),
        ("don't", "do n't"),
        ("she’ll", "she ’ll"),
        ("O'Neill's", "O'Neill 's"),
        ("well-known", "well - known"),
        ("U.S.", "U.S."),
        ("USA.", "USA ."),
        ("Mr.", "Mr."),
        ("e.g.,", "e.g. ,"),
        ("3.5", "3.5"),
        ("10km", "10 km"),
        ("wait...", "wait ..."),
        ("https://example.com/a?b=c.", "https://example.com/a?b=c ."),
        ("user@example.com,", "user@example.com ,"),
        ("$5", "$ 5"),
        ("and/or", "and/or"),
        ("either/or", "either / or"),
        ("...", "..."),
        ("--", "--"),
    ],
)
def test_words_are_split_as_in_the_field(piece, words):
    assert split_piece(piece) == words.split()


def test_splitting_loses_no_character():
    random.seed(1)
    letters = "ab.Z9'’-—/:(),\"!?#€中。é%$&_…"
    for _ in range(3000):
        piece = "".join(random.choices(letters, k=random.randint(1, 12)))
        assert "".join(split_piece(piece)) == piece


def test_a_vocabulary_that_forgets_changes_nothing(monkeypatch):
    texts = [f"a{i} b{i % 7}, c{i % 5}. The end" for i in range(400)]
    whole = look(*texts)
    want = [whole.word_counts.tolist(), whole.ngrams["top_2_gram"].tolist()]
    monkeypatch.setattr("data_tools.clean.words.REMEMBERED", 20)
    small = Vocabulary()
    got = [look(*texts[i : i + 10], vocabulary=small) for i in range(0, 400, 10)]
    assert [c for v in got for c in v.word_counts.tolist()] == want[0]
    assert [c for v in got for c in v.ngrams["top_2_gram"].tolist()] == want[1]


def test_unspaced_scripts_are_split_by_character_and_counted_as_words():
    text = "我来到北京。Hello world"
    view = look(text, vocabulary=Vocabulary("characters"), stretch=2.5)
    assert view.all_counts[0] == 5 + 1 + 2
    assert view.word_counts[0] == 5 / 2.5 + 1 + 2
    assert look(text).all_counts[0] < 6  # with spaces alone the clause is one word


def test_the_segmenter_cuts_words_not_characters():
    pytest.importorskip("rjieba", reason="jaxpt[data] brings the Chinese segmenter")
    view = look("我来到北京清华大学。\n\n我们学习数学", vocabulary=Vocabulary("jieba"))
    words = view.words
    assert [words.number(w) is not None for w in ("来到", "北京", "清华大学", "北")] == [True, True, True, False]
    assert value_of_lines(view) == [5, 0, 3]


def value_of_lines(view):
    return np.diff(view.words.lines).tolist()


def test_an_unknown_segmenter_is_named():
    with pytest.raises(JaxptError, match="did you mean 'jieba'"):
        Vocabulary("jiba")
    assert "jieba" in SEGMENTERS


def plain_top(words, n):
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, times = Counter(grams).most_common(1)[0]
    return len(gram) * times


def plain_repeated(words, n):
    seen, chars, i = set(), 0, 0
    while i < len(words) - n + 1:
        gram = tuple(words[i : i + n])
        if gram in seen:
            chars += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return chars


def test_ngram_shares_are_those_of_the_definition():
    rng = random.Random(5)
    texts = [" ".join(rng.choices(["ab", "cde", "f", "gh"], k=rng.randint(0, 60))) for _ in range(200)]
    texts += ["", "one", "x " * 40, "a b c d e f g h i j k l " * 3]
    view = look(*texts)
    for i, text in enumerate(texts):
        words, size = text.split(), max(len(text), 1)
        for n in (2, 3, 4):
            assert view.ngrams[f"top_{n}_gram"][i] == pytest.approx(plain_top(words, n) / size)
        for n in range(5, 11):
            assert view.ngrams[f"repeated_{n}_gram"][i] == pytest.approx(plain_repeated(words, n) / size)


def test_counting_overlapping_repeats_twice_would_be_noticed():
    text = "a b c d e " * 3
    words = text.split()
    overlapping = sum(tuple(words[i : i + 5]) in {tuple(words[j : j + 5]) for j in range(i)} for i in range(11))
    assert plain_repeated(words, 5) != 5 * overlapping
    assert look(text).ngrams["repeated_5_gram"][0] == pytest.approx(plain_repeated(words, 5) / len(text))


def test_lines_and_paragraphs_that_repeat():
    text = "alpha\nbeta\nalpha\n\ngamma\nalpha"
    assert value("duplicate_lines", text) == pytest.approx(2 / 5)
    assert value("duplicate_line_characters", text) == pytest.approx(10 / len(text))
    assert value("duplicate_paragraphs", "a b\n\na b\n\n\nc") == pytest.approx(1 / 3)
    assert value("repeated_line_characters", "aa\naa\nbb") == pytest.approx(2 / 6)


def test_sentences_are_counted_line_by_line():
    assert value("sentences", 'One. Two! "Three?" Four\nFive\n\nSix...') == 4 + 1 + 1
    assert value("sentences", "") == 0


def test_what_the_layout_rules_see():
    menu = "Home\nAbout us\nContact\nThis line is a sentence with more words."
    assert value("few_word_lines", menu) == pytest.approx(3 / 4)
    assert value("short_lines", menu) == pytest.approx(3 / 4)
    assert value("punctuated_lines", menu) == pytest.approx(1 / 4)
    assert value("punctuated_lines", "no\nmark") == 0
    assert value("punctuated_lines", "no\nmark", zero_passes=True) == 1
    log = "2024-01-02 10:11:12 INFO started\n[ERROR] broken\nplain words here"
    assert value("log_lines", log) == pytest.approx(2 / 3)
    assert value("markup_characters", "<b>x</b>") == pytest.approx(7 / 8)
    assert value("uppercase_letters", "ABcd 1") == pytest.approx(0.5)
    assert value("unspaced_letters", "中文ab") == pytest.approx(0.5)
    assert value("bracket_characters", "(a)b") == pytest.approx(0.5)


def test_stop_words_are_distinct_or_counted_and_particles_may_be_parts():
    assert value("stop_words", "the the of THE") == 2
    assert value("stop_word_uses", "the the of THE") == 3
    assert value("stop_words", "나는 학교에", words=("는", "에")) == 0
    assert value("stop_words", "나는 학교에", words=("는", "에"), inside=True) == 2


def test_listed_words_count_in_any_case_but_not_inside_words():
    assert value("safety_words", "Casino casino CASINO casinos", words=("casino",)) == pytest.approx(3 / 4)
    assert value("safety_words", "在澳门赌场", words=("赌场",)) > 0


HARD = {
    "one character": "a" * 3_000_000,
    "one mark": "!" * 300_000,
    "quotes": "'\"" * 200_000,
    "white space": " \t\n\u3000" * 500_000,
    "far apart": "a" + " " * 300_000 + "b\n" + " " * 300_000 + "c",
    "lines": "x\n" * 300_000,
    "same words": "spam " * 100_000,
    "nul": "\x00" * 100_000 + " a\x00b",
    "open brackets": "<a " * 100_000,
    "dots and digits": "1." * 200_000,
    "dashes": "a-" * 200_000,
    "surrogate": "a \ufffd b",
    "empty": "",
}


@pytest.mark.parametrize("name", HARD)
def test_hard_texts_are_measured(name):
    view = look(HARD[name])
    for rule, measure in MEASURES.items():
        if rule != "language":
            values = measure.function(view, dict(measure.options))
            assert values.shape == (1,), rule
            assert np.isfinite(values).all(), rule


def test_symbols_are_marks_and_never_letters_or_digits():
    assert not any(c.isalnum() for c in characters.SYMBOLS)
    assert {"。", "!", "—", "\x00"} <= characters.SYMBOLS
    assert "•" not in characters.SYMBOLS
    assert re.match(f"[{characters.UNSPACED_CLASS}]", "中")
