"""Decisions of the published presets against datatrove, rule by rule, on real noisy text (all of it: the benchmark)."""

import gzip
import json

import pytest

pytest.importorskip("datatrove", reason="jaxpt[dev] brings datatrove")
pytest.importorskip("spacy", reason="jaxpt[dev] brings spaCy, which datatrove splits words with")

SAMPLE = 60  # of each file, evenly spaced


@pytest.fixture(scope="module")
def texts(shared):
    out = []
    for path in ("noisy_web/c4_demo", "noisy_web/redpajama_c4-rp_1", "domain_mix/redpajama_stackexchange_1"):
        with gzip.open(shared / f"data/{path}.jsonl.gz", "rt") as file:
            rows = [json.loads(line)["text"] for line in file]
        out += rows[:: len(rows) // SAMPLE][:SAMPLE]
    return [t for t in out if len(t) < 20_000]


def test_every_rule_decides_as_datatrove_does(texts):
    from benchmarks.clean import c4_text, disagreements

    found = disagreements(texts)
    assert len(found) == 27
    assert {rule: len(places) for rule, places in found.items() if len(places) > 0.005 * len(texts)} == {}
    assert c4_text(texts) == 0


def test_the_comparison_can_fail(texts, monkeypatch):
    from benchmarks import clean

    loose = clean.presets.load

    def load(name, changes=()):
        return loose(name, [*changes, *(["words.least=200"] if name == "gopher" else [])])

    monkeypatch.setattr(clean.presets, "load", load)
    peer = clean.peers()["words"]
    wrong = clean.ours(texts[:100])["words"]
    assert sum(peer(t) != w for t, w in zip(texts, wrong)) > 5
