"""Hard line wraps: what a wrap cut is joined, what is written in lines stays; rules judge the text, not its width."""

import gzip
import json
import textwrap

import pytest

from data_tools.__main__ import main
from data_tools.clean import presets
from data_tools.clean.pipeline import WRAP, judge
from data_tools.clean.wrapping import unwrap
from data_tools.io.batch import from_rows
from jaxpt.errors import JaxptError

OFF = ["language.on=false", "domain_lines.on=false"]


def wrapped(text, width=72):
    options = {"break_on_hyphens": False, "break_long_words": False}
    return "\n\n".join("\n".join(textwrap.wrap(p, width, **options)) for p in text.split("\n\n"))


def paragraphs(text):
    return "\n\n".join(" ".join(p.split()) for p in text.split("\n") if p.strip())


@pytest.fixture(scope="module")
def books(shared):
    """The beginnings of four books, a paragraph a line."""
    with gzip.open(shared / "data/english/books.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"][20_000:80_000] for line, _ in zip(lines, range(9))]
    return [
        "\n\n".join(" ".join(p.split()) for p in t.split("\n") if p.strip()) for t in (texts[i] for i in (0, 1, 3, 6))
    ]


@pytest.mark.parametrize("width", [60, 72, 80])
def test_real_prose_comes_back_as_it_was_before_it_was_wrapped(books, width):
    whole = same = 0
    for text in books:
        before = text.split("\n\n")
        whole += len(before)
        same += sum(a == b for a, b in zip(before, unwrap(wrapped(text, width)).split("\n\n"), strict=True))
        assert unwrap(text) is text
    assert same > 0.97 * whole


CODE = "\n".join(f"    result_{i} = compute_something(argument_{i}, other_argument_{i})  # comment" for i in range(20))
LOG = "\n".join(f"2024-05-0{i % 9} 12:00:{i:02} INFO worker {i} has finished the job {i * 37}" for i in range(20))
VERSE = "\n".join(["Shall I compare thee to a summer's day?", "Thou art more lovely and more temperate:"] * 8)
TABLE = "\n".join(f"{i:>6} | {i * 3:>12} | some value of the row {i:>4} | and another of the row" for i in range(20))
LIST = "\n".join(f"- point {i} of the list, which is about as long as the width of the others {i}" for i in range(20))


@pytest.mark.parametrize("text", [CODE, LOG, VERSE, TABLE, LIST, "", "one line", "a\nb\nc\nd\ne\nf\ng"])
def test_what_is_written_in_lines_keeps_them(text):
    assert unwrap(text) is text


def test_words_cut_at_a_line_end_are_whole_and_compounds_keep_their_hyphen():
    text = "\n".join([
        "It was a well-known thing that the exam-",
        "ination would come, and that every well-",
        "known teacher of the town had to be in--",
        "if nothing else--a room with his pupils,",
        "who had been told to bring their pencils",
        "and nothing else that could be of use to",
        "them, as the rules of the school said.",
    ])  # fmt: skip
    joined = unwrap(text)
    assert "the examination would" in joined
    assert "every well-known teacher" in joined
    assert "to be in--if nothing" in joined
    assert "\n" not in joined


def test_chinese_wrapped_at_a_fixed_width_is_joined_without_spaces():
    paragraph = "深度学习的方法很多，训练模型需要大量数据，因此数据的清洗与去重非常重要。" * 8
    assert unwrap("\n".join(paragraph[i : i + 25] for i in range(0, len(paragraph), 25))) == paragraph


def judged(texts, preset, *changes):
    batch, _ = from_rows([{"text": t} for t in texts], list(range(len(texts))))
    return judge(batch, presets.load(preset, [*OFF, *changes]))


def test_harsh_judges_wrapped_windows_as_it_judges_them_unwrapped(books):
    """Before, 1 of 641 wrapped windows was kept, and 319 of 537 of the same books without the wrap."""
    windows = [t[i : i + 3600] for t in books for i in range(0, len(t) - 3600, 3600)]
    windows = [w[w.find("\n\n") + 2 : w.rfind("\n\n")] for w in windows]
    flat, hard = judged(windows, "harsh"), judged(list(map(wrapped, windows)), "harsh")
    assert flat.keep.sum() >= len(windows) // 3
    assert abs(int(flat.keep.sum()) - int(hard.keep.sum())) <= 2
    assert (
        judged(list(map(wrapped, windows)), "harsh", "unwrap.on=false").keep.sum() == 0
    )  # the difference is the wrap's


def test_the_text_is_written_unwrapped_or_as_it_is(books):
    hard = wrapped(books[0])
    assert judged([hard], "gopher", "unwrap.write=as_is").texts == [hard]
    assert judged([hard], "gopher", "unwrap.write=unwrapped").texts == [unwrap(hard)]
    with pytest.raises(JaxptError, match=r"unwrap.write='asis' \(did you mean 'as_is'\?\)"):
        presets.load("gopher", ["unwrap.write=asis"])


def test_a_book_is_kept_by_its_preset_wrapped_or_not(shared):
    with gzip.open(shared / "data/english/books.jsonl.gz", "rt") as lines:
        texts = (json.loads(line)["text"] for line in lines)
        book = paragraphs(next(t for t in texts if 50_000 < t.count(" ") < 80_000))
    assert judged([wrapped(book)], "books").keep.all()
    assert judged([book], "harsh").rule == ["words"]  # too long for a web page


def test_a_report_names_the_wrap_where_it_was_the_cause(books, tmp_path, capsys):
    rows = [{"id": str(i), "source": "books", "text": wrapped(t[:20_000])} for i, t in enumerate(books)]
    rows.append({"id": "bad", "source": "books", "text": wrapped("word " * 300)})  # no better without the wrap
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    arguments = [f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out", "--preset=fineweb"]
    assert main(["clean", *arguments, "--set=language.on=false", "--set=line_breaks_per_word.most=0.01"]) == 0
    gone = [json.loads(line) for line in (tmp_path / "out/removals/in.jsonl.jsonl").read_text().splitlines()]
    causes = {r["id"]: r.get("cause") for r in gone if r["whole"]}
    assert [i for i, cause in causes.items() if cause == WRAP]
    assert causes["bad"] is None
    wraps = sum(cause == WRAP for cause in causes.values())
    assert f"{wraps} of {len(causes)} removed documents went for {WRAP}" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/clean.json").read_text())["sources"]["books"]["causes"] == {WRAP: wraps}
