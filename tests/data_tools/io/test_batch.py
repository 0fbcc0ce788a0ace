"""Batches of records: heterogeneous rows pass through untouched, words are counted alike in every script."""

import json

import numpy as np
import pyarrow as pa
import pytest

from data_tools.io.batch import Outcome, Removed, Rule, check, count_words, from_rows, json_lines, strings
from jaxpt.errors import JaxptError

ROWS = [
    {"id": "a", "text": "one two", "meta": {"deep": [1, None, {"x": "é"}]}, "n": 12345678901234567890},
    {"text": "", "id": 7, "lang": None, "source": ["not", "text"]},
    {"text": "中文 and\u3000kana かな", "url": "http://x/\ud800", "tags": []},
    {"text": "x", "float": 0.1, "_odd": True},
]


def back(batch, field="text"):
    return [json.loads(line) for line in json_lines(batch, field).splitlines()]


def test_rows_of_any_shape_come_back_as_they_were():
    batch, repaired = from_rows(ROWS, range(4))
    assert repaired == 0
    assert back(batch) == ROWS
    assert strings(batch, "id") == ["a", None, None, None]
    assert strings(batch, "tags") == [None] * 4


def test_lines_are_written_as_python_s_json_writes_them():
    texts = ["".join(map(chr, range(0x200))), '\u2028\u2029\ufeff\uffff😀/\\"', ""]
    batch, _ = from_rows([{"text": text, "id": text, "n": 1.5, "z": [1, {"a": None}]} for text in texts], range(3))
    assert json_lines(batch).decode() == "".join(
        json.dumps({"text": t, "id": t, "n": 1.5, "z": [1, {"a": None}]}, ensure_ascii=False) + "\n" for t in texts
    )


def test_the_text_keeps_the_name_of_its_field():
    rows = [{"content": "a", "text": 5, "id": "x"}]
    assert back(from_rows(rows, [0], "content")[0], "content") == rows


def test_an_unpaired_surrogate_is_replaced_and_counted():
    batch, repaired = from_rows([{"text": "a\ud83db"}, {"text": "\U0001f600"}], [0, 1])
    assert repaired == 1
    assert [r["text"] for r in back(batch)] == ["a\ufffdb", "\U0001f600"]


def test_a_field_that_a_step_sets_replaces_the_rows_own():
    batch, _ = from_rows([{"text": "a", "score": "old", "lang": 3}, {"text": "b"}], [0, 1])
    out = Outcome.of(batch, columns={"score": pa.array([0.5, None]), "lang": ["en", "de"]}).kept
    assert back(out) == [{"text": "a", "score": 0.5, "lang": "en"}, {"text": "b", "lang": "de"}]


def test_removing_and_changing_texts():
    batch, _ = from_rows([{"text": t} for t in "abc"], range(3))
    out = Outcome.of(batch, [Removed(0, "r", 1), Removed(1, "cut", 2, whole=False)], texts={1: "B"})
    check(out, 3, "test")
    assert [r["text"] for r in back(out.kept)] == ["B", "c"]


def test_a_row_that_vanishes_silently_or_twice_is_an_error():
    batch, _ = from_rows([{"text": t} for t in "abc"], range(3))
    with pytest.raises(JaxptError, match="3 records came in, 2 stayed, 0 went"):
        check(Outcome(batch.slice(1)), 3, "test")
    with pytest.raises(JaxptError, match="removed twice"):
        check(Outcome.of(batch, [Removed(0, "a", 1), Removed(0, "b", 1)]), 3, "test")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("  \n", 0),
        ("one", 1),
        (" one\ttwo\n three ", 3),
        ("中文字", 3),
        ("한국어 문장", 2),
        ("a中 b", 3),
        ("é à", 2),
    ],
)
def test_words(text, words):
    batch, _ = from_rows([{"text": "before"}, {"text": text}, {"text": "after that"}], range(3))
    assert count_words(batch).tolist() == [1, words, 2]
    assert count_words(batch.slice(1, 1)).tolist() == [words]


def test_histograms_clip_what_lies_beyond_and_pass_over_nan():
    rule = Rule("r", least=10, low=1, high=1000, log=True)
    bins = rule.count(np.array([0.1, 1, 999, 5000, np.nan, 30]))
    assert (bins.sum(), bins[0], bins[-1]) == (5, 2, 2)
