"""Decisions of the published presets against datatrove, rule by rule, on real noisy text (all of it: the benchmark)."""

import gzip
import json

import numpy as np
import pytest

pytest.importorskip("datatrove", reason="jaxpt[dev] brings datatrove")
pytest.importorskip("spacy", reason="jaxpt[dev] brings spaCy, which datatrove splits words with")

SAMPLE = 60  # of each file, evenly spaced


ENGLISH = (("fineweb", "gopher", "c4"), "eng")


def sample(*paths, count=SAMPLE):
    out = []
    for path in paths:
        with gzip.open(f"{path}.jsonl.gz", "rt") as file:
            rows = [json.loads(line)["text"] for line in file]
        out += rows[:: len(rows) // count][:count]
    return [t for t in out if len(t) < 20_000]


@pytest.fixture(scope="module")
def texts(shared):
    names = ("noisy_web/c4_demo", "noisy_web/redpajama_c4-rp_1", "domain_mix/redpajama_stackexchange_1")
    return sample(*(shared / "data" / name for name in names))


def test_every_rule_decides_as_datatrove_does(texts):
    from benchmarks.clean import c4_text, disagreements

    found = disagreements(texts, *ENGLISH)
    assert len(found) == 27
    assert {rule: len(places) for rule, places in found.items() if len(places) > 0.005 * len(texts)} == {}
    assert c4_text(texts) == 0


def test_the_comparison_can_fail(texts, monkeypatch):
    from benchmarks import clean

    loose = clean.presets.load

    def load(name, changes=()):
        return loose(name, [*changes, *(["words.least=200"] if name == "gopher" else [])])

    monkeypatch.setattr(clean.presets, "load", load)
    wrong = clean.ours(texts[:100], ENGLISH[0])[0]["words"]
    peer = clean.peers({"words": (50, 100_000)}, "eng", ())["words"]
    assert sum(peer(t) != w for t, w in zip(texts, wrong)) > 5


def test_chinese_is_cut_into_the_words_of_jieba_and_judged_alike(shared):
    pytest.importorskip("jieba", reason="jaxpt[dev] brings jieba, with which spaCy splits Chinese")
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    from benchmarks.clean import disagreements
    from data_tools.clean.words import Vocabulary

    texts = sample(shared / "data/chinese/d2l_zh_md", shared / "data/chinese/javaguide_md", count=10)
    mine = Vocabulary("jieba").words(texts)
    peer = load_word_tokenizer("cmn_Hani")
    assert np.diff(mine.offsets).tolist() == [len(peer.word_tokenize(t)) for t in texts]
    found = disagreements(texts, ("fineweb2-zh",), "cmn_Hani")
    assert len(found) == 20
    assert {rule: places for rule, places in found.items() if places} == {}
