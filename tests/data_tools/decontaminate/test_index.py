"""Decontamination: planted items are found by the rule that should find them, clean text is left alone."""

import gzip
import json

import pytest

from data_tools.decontaminate.index import Item, ItemIndex, Rules, excerpt
from jaxpt.errors import JaxptError

LONG = "Janet sells sixteen fresh duck eggs at the market every single day for two dollars each how much"
NINE = "which planet of the solar system has most moons"
FIVE = "capital of the old kingdom"
ITEMS = [Item("long", "0", LONG), Item("nine", "1", NINE), Item("five", "2", FIVE), Item("yes", "3", "Yes, it is")]
CLEAN = "nothing of that sort is written here, it is a page about gardens and about the people who keep them"


def matches(text, **rules):
    return [(m.rule, m.item.task) for m in ItemIndex(ITEMS, Rules(**rules)).match([CLEAN, text])[1]]


def test_thirteen_tokens_in_common_are_enough_whatever_their_case_and_punctuation():
    part = LONG.split()[2:15]
    assert matches(f"{CLEAN}. {' '.join(part).upper()}! {CLEAN}") == [("long", "long")]
    assert matches(f"{CLEAN}. {' '.join(part[:-1])} other {CLEAN}") == []


def test_most_eight_grams_of_an_item_are_enough_and_fewer_are_not():
    words = LONG.split()
    broken = " ".join([*words[:9], "x", *words[10:]])  # no 13 tokens in a row
    assert ("ratio", "long") not in matches(broken, ratio=0.7)
    assert ("ratio", "long") in matches(broken, ratio=0.2)
    assert ("ratio", "nine") in matches(f"quiz: {NINE}? answer")


def test_a_short_item_matches_only_as_a_whole_and_a_tiny_one_is_reported_as_unchecked():
    assert matches(f"the {FIVE} was moved") == [("whole", "five")]
    assert matches("capital of the old town") == []
    assert [i.task for i in ItemIndex(ITEMS).unchecked] == ["yes"]


def test_wording_shared_by_many_items_does_not_count():
    frame = "choose the one answer that best completes the sentence in the passage shown below and explain"
    items = [Item("set", str(i), f"{frame} number{i} alpha{i} beta{i}") for i in range(6)]
    assert ItemIndex(items).match([f"{CLEAN} {frame} {CLEAN}"]) == [[]]
    assert ItemIndex([items[0]] * 9).match([items[0].text]) != [[]]  # copies of one item are not a template
    assert ItemIndex(items[:3]).match([f"{CLEAN} {frame} {CLEAN}"]) != [[]]


def test_the_match_says_how_much_and_where():
    text = f"Été: {CLEAN}; {LONG}"
    found = next(m for m in ItemIndex(ITEMS).match([text])[0] if m.rule == "long")
    assert found.value == len(LONG.split())
    assert excerpt(text, found.token, 3) == "Janet sells sixteen"
    assert excerpt("中文字符", 1, 2) == "文字"


def test_numpy_and_compiled_paths_match_alike():
    pytest.importorskip("numba")
    texts = [LONG, NINE, CLEAN, "", f"the {FIVE}"]
    assert ItemIndex(ITEMS, path="numpy").match(texts) == ItemIndex(ITEMS, path="compiled").match(texts)


def test_empty_sets_and_contradicting_rules_are_refused():
    with pytest.raises(JaxptError, match="no items"):
        ItemIndex([])
    with pytest.raises(JaxptError, match="shortest <= short <= long"):
        ItemIndex(ITEMS, Rules(short=20))


def test_real_test_questions_planted_in_web_text_are_found_and_the_web_text_itself_is_clean(shared):
    def load(name, count):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(count))]

    items = [Item("gsm8k", r["id"], r["text"]) for r in load("eval/gsm8k_test", 200)]
    items += [Item("cmmlu", r["id"], r["text"]) for r in load("eval/cmmlu_dev_and_test_part", 200)]
    web = [r["text"] for r in load("noisy_web/c4_demo", 200)]
    index = ItemIndex(items)
    assert sum(bool(m) for m in index.match(web)) <= 2
    checked = [i for i in items if i not in index.unchecked]
    planted = [f"{web[k % 200][:800]}\n{item.text}\n{web[k % 200][800:]}" for k, item in enumerate(checked)]
    found = [any(m.item == item for m in ms) for item, ms in zip(checked, index.match(planted))]
    assert sum(found) >= 0.99 * len(found)
