"""Tokenized documents that were damaged on disk never become rows."""

import json

import pytest

from data_tools.commands.tokenize import main
from jaxpt.data.tokenize import ALL, Tokenized
from jaxpt.data.tokenized import TokenizedDocuments
from jaxpt.tokenizers import train_sentencepiece
from tests.files.flips import assert_never_silent, outcomes


@pytest.fixture
def tokenized(tmp_path):
    texts = [f"the quick brown fox number {n} jumps over {n * 7} lazy dogs" for n in range(120)]
    train_sentencepiece(texts, tmp_path / "words" / "tokenizer.model", 300)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": t, "source": "web"}) + "\n" for t in texts))
    out = tmp_path / "out"
    words = f"--tokenizer={tmp_path / 'words'}"
    assert main([f"--input={tmp_path / 'text.jsonl'}", f"--output={out}", words, "--keep=source"]) == 0
    return out


def everything(path):
    found = TokenizedDocuments(path)
    book = Tokenized([], [])
    documents = [document.tokens.tolist() for document in found.documents(book, ALL)]
    return found.facts, documents, book.ids, found.values("source")


def test_damage_to_the_note_or_a_shard_is_noticed_or_harmless(tokenized):
    (shard,) = tokenized.glob("*.parquet")
    assert_never_silent(outcomes(tokenized / "tokenized.json", lambda: everything(tokenized), 3))
    counts = outcomes(shard, lambda: everything(tokenized), max(1, shard.stat().st_size // 100))
    assert_never_silent(counts)
    assert not counts["harmless"]


def test_without_digests_damage_is_silent(tokenized):  # the proof above can fail
    facts = json.loads((tokenized / "tokenized.json").read_text())
    del facts["digest"], facts["shards"][0]["sha256"]
    (tokenized / "tokenized.json").write_text(json.dumps(facts))
    counts = outcomes(tokenized / "tokenized.json", lambda: everything(tokenized), 1)
    assert any(what.endswith("silent") for what in counts)
