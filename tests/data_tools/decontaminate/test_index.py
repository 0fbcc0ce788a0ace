"""Decontamination: planted items are found by the rule that should find them, clean text is left alone."""

import gzip
import json

import pytest

from data_tools.commands import decontaminate
from data_tools.decontaminate.index import Item, ItemIndex, Rules, excerpt
from data_tools.decontaminate.passages import passages, without
from jaxpt.errors import JaxptError

LONG = "Janet sells sixteen fresh duck eggs at the market every single day for two dollars each how much"
NINE = "which planet of the solar system has most moons"
FIVE = "capital of the old kingdom"
ITEMS = [Item("long", "0", LONG), Item("nine", "1", NINE), Item("five", "2", FIVE), Item("yes", "3", "Yes, it is")]
CLEAN = "nothing of that sort is written here, it is a page about gardens and about the people who keep them"


def matches(text, **rules):
    return [(m.rule, m.item.task) for m in ItemIndex(ITEMS, Rules(gapped_ratio=0, **rules)).match([CLEAN, text])[1]]


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


def test_an_item_with_a_word_exchanged_or_half_of_it_is_found_with_a_gap_and_scattered_words_are_not():
    words = LONG.split()
    index = ItemIndex(ITEMS)

    def found(text):
        return [(m.rule, m.item.task) for m in index.match([f"{CLEAN}. {text}. {CLEAN}"])[0]]

    assert found(" ".join([*words[:9], "goose", *words[10:]])) == [("gapped", "long")]
    assert found(" ".join(words[:9])) == [("gapped", "long")]
    assert found(" ".join(words[:4])) == []
    far = f" {CLEAN} {CLEAN} "  # the same runs, further apart than one and a half times the item
    assert found(" ".join(words[:5]) + far + " ".join(words[10:15])) == []
    assert found(" ".join(words[::-1])) == []


def test_format_characters_and_line_breaks_hide_no_item():
    chinese = Item("zh", "0", "肉牛屠宰后胴体的哪个部位肉质较好")
    index = ItemIndex([*ITEMS, chinese])
    hidden = [
        "".join(c + "\u00ad" for c in LONG),
        "\u200b".join(chinese.text),
        chinese.text[:7] + "\n" + chinese.text[7:],
    ]
    assert [ms[0].rule for ms in index.match(hidden)] == ["long", "long", "long"]


def test_a_book_loses_the_passage_and_a_page_that_is_mostly_the_item_goes():
    chapter = "\n\n".join([CLEAN] * 150)
    book, page = f"{chapter}\n\nHe read: {LONG}?\n\n{chapter}", f"Quiz. {LONG}"
    found = [passages(t, ms) for t, ms in zip((book, page), ItemIndex(ITEMS).match([book, page]))]
    assert found[0].share < 0.01 < 0.5 < found[1].share
    assert [book[a:b] for a, b in found[0].spans] == [LONG]
    text, count = without(book, found[0].spans, 200, "")
    assert count == 1
    assert "duck eggs" not in text
    assert text.startswith(CLEAN)
    assert text.endswith(CLEAN)
    assert 200 < len(book) - len(text) - len(LONG) < 600
    assert "[…]" in without(book, found[0].spans, 0, "[…]")[0]


def test_the_command_cuts_drops_and_counts(tmp_path, capsys):
    chapter = "\n\n".join([CLEAN] * 150)
    texts = [f"{chapter}\n\n{LONG}\n\n{chapter}", f"Quiz. {LONG}", CLEAN]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts))
    )
    (tmp_path / "exam.jsonl").write_text(json.dumps({"task": "exam", "id": "7", "text": LONG}) + "\n")
    where = [f"--input={tmp_path}/in.jsonl", f"--eval={tmp_path}/exam.jsonl", f"--output={tmp_path}/out"]
    assert decontaminate.main(where) == 0
    kept = [json.loads(line) for line in (tmp_path / "out/in.jsonl").read_text().splitlines()]
    assert [r["id"] for r in kept] == ["0", "2"]
    assert "duck" not in kept[0]["text"]
    gone = [json.loads(line) for line in (tmp_path / "out/removals/in.jsonl.jsonl").read_text().splitlines()]
    assert [(r["id"], r["whole"], r["items"]) for r in gone] == [
        ("0", False, {"exam": ["7"]}),
        ("1", True, {"exam": ["7"]}),
    ]
    table = capsys.readouterr().out
    assert "passages cut out of" in table
    assert decontaminate.main([*where, "--share=0"]) == 0  # as before: whatever matches goes
    assert [json.loads(line)["id"] for line in (tmp_path / "out/in.jsonl").read_text().splitlines()] == ["2"]


def test_old_prose_is_not_taken_for_modern_exam_questions(shared):
    """The stated rate: 5 of 16,200 clean windows of 2,000 characters against 32,600 items (docs/dedup.md)."""

    def load(name, count):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as lines:
            return [json.loads(line)["text"] for line, _ in zip(lines, range(count))]

    items = [Item("mmlu", str(i), text) for i, text in enumerate(load("eval/mmlu_dev_and_test_part", 3000))]
    index = ItemIndex(items)
    windows = [t[i : i + 2000] for t in load("english/books", 3) for i in range(0, 400_000, 2000)]
    assert sum(bool(m) for m in index.match(windows)) <= 1
    edited = [item for item in items if len(item.text.split()) > 12][:300]

    def changed(text):
        words = text.split(" ")
        return " ".join([*words[: len(words) // 2], "something", *words[len(words) // 2 + 1 :]])

    found = index.match([f"{windows[k][:900]}\n{changed(item.text)}" for k, item in enumerate(edited)])
    assert sum(any(m.item.text == item.text for m in ms) for item, ms in zip(edited, found)) >= 0.95 * len(edited)


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
