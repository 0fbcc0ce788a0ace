"""Folding: renderings of one text that a reader cannot tell apart give the same tokens, other texts do not."""

import gzip
import json
import unicodedata
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.dedup import folding, minhash
from data_tools.dedup.engine import open_engine
from data_tools.dedup.pipeline import DedupOptions, run
from data_tools.dedup.store import SignatureLayout, Store
from jaxpt.errors import JaxptError

ENGLISH = "The first office of an efficient examination is to find a difficult question, and a floating answer."
CHINESE = "深度学习的方法很多，训练模型需要大量数据，因此数据的清洗与去重非常重要。" * 2
JAPANESE = "データの品質は、モデルの性能をがらりと変える。ﾊﾟﾀｰﾝを学ぶ。"
KOREAN = "한국어 문장은 이렇게 생겼습니다. 데이터가 중요합니다."
THAI = "ภาษาไทยเขียนติดกันโดยไม่มีช่องว่างระหว่างคำและน้ำ"
HINDI = "हिन्दी की किताबें ज़मीन पर क़लम के साथ पड़ी हैं"
ODD = "aé-\n \u00ad中文が\u3099ﬁก\u0e33ᄀ\u1161\u0301x\ud800"
PERSIAN = "می‌خواهم کتاب‌ها را بخوانم"


def tokens(text):
    return minhash.hash_tokens([text], "numpy").values.tolist()


def between(text, mark, every=3):
    """Returns `text` with `mark` after every third character, where a word goes on."""
    return "".join(c + (mark if i % every == 0 and c.isalnum() else "") for i, c in enumerate(text))


@pytest.mark.parametrize("code", [0xAD, 0x200B, 0x2060, 0xFEFF, 0x200C, 0x200D, 0x200E, 0x202A, 0xFE0F, 0x61C, 0xE0041])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE, KOREAN])
def test_format_characters_change_nothing(code, text):
    assert tokens(between(text, chr(code))) == tokens(text)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize(
    "text", [ENGLISH, CHINESE, JAPANESE, KOREAN, THAI, HINDI, PERSIAN, "Ångström, ½ ㎏ ①", "ﬁ ŉ ǅ"]
)
def test_every_normal_form_of_a_text_has_the_same_tokens(form, text):
    assert tokens(unicodedata.normalize(form, text)) == tokens(text)


def test_ligatures_radicals_and_wide_letters_are_what_they_stand_for():
    assert tokens("ﬁrst oﬀice, eﬃcient ﬂoat") == tokens("first office, efficient float")
    assert tokens("⼈⼯智能") == tokens("人工智能")
    assert tokens("ＪＡＸ　１２３") == tokens("jax 123")


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI])
@pytest.mark.parametrize("end", ["\n", "\n  ", " \n", "\n\u3000\u3000", "\u200b\n"])
def test_a_line_break_in_a_script_without_spaces_changes_nothing(text, end):
    wrapped = end.join(text[i : i + 20] for i in range(0, len(text), 20))
    assert tokens(wrapped) == tokens(text)


def test_a_word_hyphenated_at_a_line_end_is_whole_and_a_dash_between_lines_stays_one():
    assert tokens("an exam-\nple and an\nim\u00ad\n  portant quest\u2010\nion") == tokens(
        "an example and an important question"
    )
    assert tokens("first -\nsecond") == tokens("first second")
    assert tokens("Anglo-\nSaxon") == tokens("Anglo Saxon")
    assert tokens("- one-\n- two") == tokens("one two")
    texts = ["ends with a hy-", "phen"]
    assert minhash.hash_tokens(texts, "numpy").lengths.tolist() == [4, 1]  # never across two texts


def test_other_texts_stay_apart():
    for one, other in [("か", "が"), ("ab cd", "abcd"), ("深度 jax", "深渡 jax"), ("가", "각"), ("क", "क़")]:
        assert tokens(one) != tokens(other)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("aé-\n \u00ad中文が\u3099ﬁก\u0e33ᄀ\u1161\u0301x\ud800"), max_size=40), max_size=6)
)
def test_texts_fold_alike_alone_and_together_and_tokens_are_where_their_spans_say(texts):
    folded, offsets = folding.fold(texts)
    alone = [folding.fold([t])[0] for t in texts]
    assert [folded[a:b].tolist() for a, b in pairwise(offsets)] == [a.tolist() for a in alone]
    for text in texts:
        begin, end = folding.token_spans(text)
        assert len(begin) == len(tokens(text))
        assert (begin < end).all()
        assert (end <= len(text)).all()
        assert (np.diff(begin) >= 0).all()


def test_a_span_is_the_word_as_it_is_written():
    text = "Été: the exam-\nple of\u00ad an eﬃ\u00adcient 中\n文"
    begin, end = folding.token_spans(text)
    found = [text[a:b] for a, b in zip(begin, end)]
    assert found == ["Été", "the", "exam-\nple", "of", "an", "eﬃ\u00adcient", "中", "文"]


class Rows:
    """A shard in memory."""

    def __init__(self, name, texts):
        self.name, self.fingerprint, self.texts = name, name, texts

    def rows(self):
        return ({"text": t} for t in self.texts)


@pytest.fixture(scope="module")
def real(shared):
    def load(name, wanted):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as lines:
            texts = (json.loads(line)["text"][:3000] for line in lines)
            return list(islice((t for t in texts if len(t) > 800 and wanted(t)), 20))

    chinese = load("chinese/javaguide_md", lambda t: sum("\u4e00" <= c <= "\u9fff" for c in t) > 1500)
    return load("noisy_web/c4_demo", str), chinese


def test_twenty_real_documents_and_their_renderings_are_one_each(real, tmp_path):
    """On the folding before, 0 of 20 (soft hyphens, zero-width spaces) and 4 of 20 (Chinese wrapped at 20)."""
    english, chinese = real
    assert (len(english), len(chinese)) == (20, 20)
    renderings = {
        "shy": [between(t, "\u00ad", 5) for t in english],
        "zwsp": [between(t, "\u200b", 4) for t in chinese],
        "nfd": [unicodedata.normalize("NFD", t) for t in english],
        "wrapped": ["\n".join(t[i : i + 20] for i in range(0, len(t), 20)) for t in chinese],
    }
    shards = [Rows("a", english), Rows("b", chinese), *(Rows(f"c-{n}", texts) for n, texts in renderings.items())]
    found = run(shards, tmp_path / "store", SignatureLayout(), open_engine("numpy"), DedupOptions("balanced"))
    assert sum(len(found.dropped(n)) for n in found.numbers) >= 77  # of 80: wrapping cuts Latin words too


def test_harsh_drops_stories_of_another_origin_in_one_navigation_and_balanced_does_not(shared, tmp_path):
    """What docs/dedup.md says of strictness: no level promises that origins stay apart."""
    with gzip.open(shared / "data/labelled/ag_news_test.jsonl.gz", "rt") as lines:
        words = [w for line, _ in zip(lines, range(60)) for w in json.loads(line)["text"].split()]
    frame = [f"navigation{i}" for i in range(300)]
    stories = [words[i * 60 : i * 60 + 60] for i in range(12)]
    pages = Rows("a", [" ".join([*frame[:150], *story, *frame[150:]]) for story in stories])
    dropped = {}
    for level in ("certain", "strict", "balanced", "harsh"):
        found = run([pages], tmp_path / level, SignatureLayout(), open_engine("numpy"), DedupOptions(level))
        dropped[level] = len(found.dropped(found.numbers[0]))
    assert dropped.pop("harsh") >= 8
    assert set(dropped.values()) == {0}


def test_a_store_of_another_folding_is_refused(tmp_path):
    store = Store(tmp_path, SignatureLayout())
    note = json.loads((tmp_path / "store.json").read_text())
    note["layout"]["scheme"]["folding"] = "80e3a4331f8df323"
    (tmp_path / "store.json").write_text(json.dumps(note))
    with pytest.raises(JaxptError, match=r"of character folding 80e3a4331f8df323.* name a new --store"):
        Store(store.path, SignatureLayout())
