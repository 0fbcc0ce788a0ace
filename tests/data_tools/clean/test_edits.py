"""What is cut out of texts, repaired and masked."""

import random
from pathlib import Path

import numpy as np
import pytest

from data_tools.clean import addresses, domains, lines, personal
from data_tools.clean.edits import EDITS
from jaxpt.errors import JaxptError


def edit(name, text, url=None, **options):
    made = EDITS[name]
    return made.function(text, {**made.options, **options}, {"url": url})


def test_c4_keeps_sentences_and_says_what_it_cut():
    text = "A full sentence here.[1]\nHome\nAbout us\nNo end mark in this line\nPlease enable javascript now.\n\n"
    text += "We use cookies on this site.\nIt goes on...\n" + "x" * 1001 + " is long.\nThe last one {here}."
    kept, cuts, found = edit("c4_lines", text)
    assert kept == "A full sentence here.\nThe last one {here}."
    assert [c[0] for c in cuts] == ["no_end_mark"] * 3 + ["javascript", "policy", "no_end_mark", "long_word"]
    assert found == {"lorem_ipsum": 0, "curly_brackets": 1}
    kept, _, _ = edit("c4_lines", "three words here\nso so", ends=())
    assert kept == "three words here"


def test_dclm_cuts_counters_numbers_shouting_and_single_words():
    text = "Body text that stays as it is.\n12 likes\n2024\nSHOUTING IN CAPITALS\nMenu\nThe story goes on. Read more..."
    kept, cuts, found = edit("dclm_lines", text)
    assert kept == "Body text that stays as it is.\nThe story goes on."
    assert [c[0] for c in cuts] == ["counter", "one_word", "uppercase", "one_word", "phrase"]
    assert found["edited_words"] == pytest.approx(9 / 20)


def test_boilerplate_is_cut_at_the_ends_and_bars_anywhere():
    body = ["This is a paragraph with enough words to stay.", "Another sentence follows it here, longer than most."]
    menu = ["Home", "News", "Sport", "Contact"]
    text = "\n".join([*menu, *body, "Home | News | Sport | About", "All rights reserved 2024", *body, *menu])
    kept, cuts, _ = edit("boilerplate_lines", text, phrases=("all rights reserved",))
    assert kept == "\n".join(body * 2)
    assert sorted({c[0] for c in cuts}) == ["menu", "navigation_bar", "stock_phrase"]
    poem = "\n".join(["Short line", "After short", "Line again", "And more", "Last one"])
    assert edit("boilerplate_lines", poem)[0] == poem  # short lines alone are not a menu around a text


def test_chinese_menus_go_and_sentences_stay():
    text = "首页\n新闻\n体育\n联系我们\n这是一个完整的句子，它有足够的长度可以留下来。\n版权所有"
    kept, _, _ = edit("boilerplate_lines", text, phrases=("版权所有",))
    assert kept == "这是一个完整的句子，它有足够的长度可以留下来。"


def test_symbol_lines():
    assert edit("symbol_lines", "a\n| | |\n||\nb|c")[0] == "a\n\nb|c"


def test_every_line_edit_takes_hard_texts_and_keeps_its_word():
    random.seed(0)
    hard = ["", "\n", "\x00", " " * 100_000, "!" * 100_000, "a\n" * 50_000, "| " * 50_000, "[" * 50_000, "1" * 100_000]
    hard += ["a" + " " * 200_000 + "b", "1." * 50_000 + "@", "+1 " * 50_000, "a@" * 50_000]
    hard += ["".join(random.choices("ab |\n.{中\x00", k=2000)) for _ in range(20)]
    for text in hard:
        for function, name in ((lines.c4_lines, "c4_lines"), (lines.dclm_lines, "dclm_lines")):
            kept, cuts, _ = function(text, EDITS[name].options)
            assert len(kept) <= len(text)
            assert all(len(c[2]) <= lines.EXCERPT for c in cuts)
        personal.mask(text, {"email": True, "ip": True, "phone": True}, "placeholder")
        kept, cuts, _ = edit("boilerplate_lines", text, phrases=("ab",))
        assert cuts or kept == text


def test_mojibake_is_repaired_and_good_text_is_not_touched():
    pytest.importorskip("ftfy", reason="jaxpt[data] brings ftfy")
    assert edit("repair", "schÃ¶n\nEnd")[0] == "schön\nEnd"
    assert edit("repair", "doesnâ€™t")[0] == "doesn’t"
    assert edit("repair", "a &lt; b")[0] == "a < b"
    assert edit("repair", "<p>a &lt; b")[0] == "<p>a &lt; b"  # markup shows its entities on purpose
    assert edit("repair", "a\x00b\x1b[31m")[0] == "ab"
    for good in (
        "naïve café",
        "“curly” – and ｆｕｌｌ ﬁ",
        "中文，全角。",
        "Привет, мир",
        "日本語のテキスト",
        "한국어 & x",
    ):
        fixed, cuts, _ = edit("repair", good)
        assert fixed is good
        assert not cuts


def test_the_quick_test_for_repair_misses_nothing(shared):
    ftfy = pytest.importorskip("ftfy", reason="jaxpt[data] brings ftfy")
    import gzip
    import json

    from data_tools.clean.repair import _ftfy, repair

    settings = _ftfy()[1]
    rows = []
    for name in ("noisy_web/c4_demo", "chinese/d2l_zh_md", "noisy_web/redpajama_cc_1"):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as file:
            rows += [json.loads(line)["text"] for line, _ in zip(file, range(25))]
    for text in rows:
        for line in text.split("\n")[:60]:
            broken = line[:80].encode().decode("latin-1")
            for t in (line, broken):
                assert repair(t) == ftfy.fix_text(t, settings._replace(unescape_html="<" not in t))


def test_global_ipv6_addresses_are_masked_and_nothing_that_only_looks_like_one():
    text = "dns 2001:4860:4860::8888: up, 2a00:1450:4001:81b:0:0:0:200e. [2606:4700::1111]:443"
    masked, counts = personal.mask(text, {"ipv6": True}, "placeholder")
    assert masked == "dns <IP_ADDRESS>: up, <IP_ADDRESS>. [<IP_ADDRESS>]:443"
    assert counts == {"ipv6": 3}
    kept = "fe80::1 2001:db8::1 ::1 std::vector 12:30:45 2001:4860 3001:2:3:4:5:6:7:8:9 x2001:4860::1"
    assert personal.mask(kept, {"ipv6": True}, "placeholder") == (kept, {})
    assert personal.mask("at 2001:4860::1", {"ipv6": True}, "fake")[0] == "at 2001:db8::17"


def test_every_hint_finds_what_its_pattern_finds():
    texts = ["a@b.co", "1.1.1.1", "2001:4860::1", "+44 20 7946 0958", "(212) 555-0123", "13812345678", "010-12345678"]
    for kind in personal.KINDS.values():
        found = [text for text in texts if kind.pattern.search(text)]
        assert found
        assert all(kind.hint.search(text) for text in found)


def test_personal_data_is_masked_and_public_values_only():
    text = "Mail jane.doe@mail.example.co.uk or call +44 20 7946 0958, host 8.8.8.8, not 10.0.0.1 nor 1.2.3.4.5."
    masked, counts = personal.mask(text, {"email": True, "ip": True, "phone": True}, "placeholder")
    assert masked == "Mail <EMAIL> or call <PHONE>, host <IP_ADDRESS>, not 10.0.0.1 nor 1.2.3.4.5."
    assert counts == {"email": 1, "ip": 1, "phone": 1}
    kept = "version 1.2.3, price 1234567890123, 2024-01-02, ISBN 978-3-16-148410-0, a@b"
    assert personal.mask(kept, {"email": True, "ip": True, "phone": True}, "placeholder") == (kept, {})
    assert personal.mask("手机 13812345678。", {"phone": True}, "placeholder")[0] == "手机 <PHONE>。"


def test_fake_values_go_round_and_begin_anew_in_every_text():
    text = "a@x.org b@x.org c@x.org"
    masked, _ = personal.mask(text, {"email": True}, "fake")
    assert masked == "email@example.com firstname.lastname@example.org email@example.com"
    assert personal.mask(text, {"email": True}, "fake")[0] == masked
    with pytest.raises(JaxptError, match="did you mean 'placeholder'"):
        personal.mask(text, {"email": True}, "placeholders")


def test_addresses_are_judged_by_lists_and_words(tmp_path):
    assert addresses.domain("https://www.Example.com:80/a") == "example.com"
    assert addresses.domain("http://[bad") == ""
    path = tmp_path / "domains.txt"
    path.write_text("bad.com # a comment\n\n# nothing\n")
    listed = addresses.read_list(str(path))
    assert listed == {"bad.com"}
    assert addresses.listed("http://a.b.bad.com/x", listed, frozenset())
    assert not addresses.listed("http://notbad.com/x", listed, frozenset())
    assert addresses.listed("http://good.com/x/", listed, frozenset(["http://good.com/x"]))
    assert addresses.word_score("http://a.com/hot-sex/page", ["porn"], ["hot", "sex"], []) == 2
    assert addresses.word_score("http://essex.com/", ["sex"], [], []) == 0
    with pytest.raises(JaxptError, match="cannot read the list"):
        addresses.read_list(str(tmp_path / "absent"))


def records(count, domain="a.com", first=0):
    return [
        (f"Own text {chr(97 + i % 26)}{i // 26 * 'x'} line\nCopyright Site\nShared {i}", domain)
        for i in range(first, first + count)
    ]


@pytest.mark.parametrize("splits", [1, 3, 7])
def test_lines_frequent_in_a_domain_are_found_however_they_are_counted(tmp_path, splits):
    shards = [
        ("s0", "f0" * 9, lambda: records(4)),
        ("s1", "f1" * 9, lambda: [*records(3, first=4), *records(9, "b.com")]),
    ]
    file = domains.count(tmp_path / "one", shards, 6, splits)
    turned = domains.count(tmp_path / "two", shards[::-1], 6, 1)
    assert np.array_equal(np.load(file), np.load(turned))
    options = {**EDITS["domain_lines"].options, "file": str(file)}
    kept, cuts, _ = domains.domain_lines(records(1)[0][0], options, "a.com")
    assert kept == "Own text a line"  # the line with a number counts as the same line
    assert [c[1] for c in cuts] == [1, 2]
    assert domains.domain_lines("Copyright Site", options, "c.com")[0] == "Copyright Site"
    assert domains.domain_lines("Copyright Site", options, "")[0] == "Copyright Site"


def test_a_line_repeated_in_one_record_is_counted_once(tmp_path):
    file = domains.count(tmp_path, [("s", "f" * 20, lambda: [("again\n" * 50, "a.com")])], 2, 1)
    assert not len(np.load(file))
    assert domains.memory_bound(1000, 5000, 2, 10) == max(40 * 1000, 24 * 2500) + 80


def test_finished_shards_are_not_counted_again(tmp_path):
    calls = []

    def read():
        calls.append(1)
        return records(3)

    first = domains.count(tmp_path, [("s", "f" * 20, read)], 2, 1)
    before = Path(first).read_bytes()
    assert domains.count(tmp_path, [("s", "f" * 20, read)], 2, 1) == first
    assert calls == [1]
    assert Path(first).read_bytes() == before
