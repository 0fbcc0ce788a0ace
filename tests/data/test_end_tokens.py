"""Which token ends a document is an option of packing, stands in the packed source, and is the same by every way."""

import json

import pytest

from data_tools.commands import pack, tokenize
from jaxpt.data.build import Packing, build
from jaxpt.data.cache import packed_on_first_use
from jaxpt.data.packed import PackedSource
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import load
from jaxpt.tokenizers.fingerprints import earlier_fingerprint
from tests.tokenizers.made import CHAT, LINES, QWEN, train_qwen2, write_json


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES[:3]))
    write_json(folder / "t", train_qwen2(), QWEN)
    return folder


def last(source):
    """The last tokens of each segment of a source whose rows hold a document each."""
    batch = source.read(range(source.rows))
    return [b[s > 0][-2:].tolist() for b, s in zip(batch["tokens"], batch["segment_ids"])]


def test_a_document_ends_with_the_tokens_asked_for(text, tmp_path):
    tokenizer = load(text / "t")
    end, im_end = (tokenizer.token_ids(t, "") for t in (CHAT[0], CHAT[2]))
    made = {
        "usual": (None, end),
        "im_end": (CHAT[2], im_end),
        "both": (CHAT[2] + CHAT[0], [*im_end, *end]),
    }
    for name, (asked, ids) in made.items():
        source = build(str(text / "a.jsonl"), tmp_path / name, tokenizer, 80, Packing(eos_token=asked))
        assert source.facts["options"].get("eos_ids") == (None if asked is None else ids)
        assert all(tail[-len(ids) :] == ids for tail in last(source))
        assert source.documents == 3


def test_packing_text_and_packing_its_tokens_end_documents_alike(text, tmp_path, capsys):
    end, tokenizer = f"--eos_token={CHAT[2]}", f"--tokenizer={text / 't'}"
    source, length = f"--input={text / 'a.jsonl'}", "--sequence_length=64"
    assert pack.main([source, f"--output={tmp_path}/a", tokenizer, length, end]) == 0
    assert tokenize.main([source, f"--output={tmp_path}/t", tokenizer, end]) == 0
    assert pack.main([f"--input={tmp_path}/t", f"--output={tmp_path}/b", length]) == 0
    a, b = PackedSource.open(tmp_path / "a"), PackedSource.open(tmp_path / "b")
    assert a.fingerprint == b.fingerprint
    assert a.facts["options"]["eos_ids"] == load(text / "t").token_ids(CHAT[2], "")
    with pytest.raises(JaxptError, match="--eos_token was decided when"):
        pack.main([f"--input={tmp_path}/t", f"--output={tmp_path}/c", length, end])
    capsys.readouterr()
    for given in ([source, tokenizer], [f"--input={tmp_path}/t"]):  # refused before a bar is drawn
        with pytest.raises(JaxptError, match=r"--output=.*/a exists; remove it"):
            pack.main([*given, f"--output={tmp_path}/a", length])
    assert capsys.readouterr().err == ""


def test_an_end_that_is_no_token_or_contradicts_is_named(text, tmp_path):
    build_it = (str(text / "a.jsonl"), tmp_path / "p", load(text / "t"), 64)
    with pytest.raises(JaxptError, match=r"eos_token=<\|imend\|>: .* is no control token of .*did you mean"):
        build(*build_it, Packing(eos_token="<|imend|>"))
    with pytest.raises(JaxptError, match="exclude each other"):
        Packing(eos_token=CHAT[2], eos=False)
    with pytest.raises(JaxptError, match="is of kind=text"):
        Packing("chat", eos_token=CHAT[2])
    flags = [f"--input={text / 'a.jsonl'}", f"--output={tmp_path}/x", f"--tokenizer={text / 't'}", "--no_eos"]
    with pytest.raises(JaxptError, match="exclude each other"):
        tokenize.main([*flags, f"--eos_token={CHAT[2]}"])
    with pytest.raises(JaxptError, match="exclude each other"):
        pack.main([*flags, "--sequence_length=64", f"--eos_token={CHAT[2]}"])


def test_text_that_an_earlier_version_packed_is_not_packed_again(text, tmp_path, monkeypatch):
    tokenizer, path = load(text / "t"), str(text / "a.jsonl")
    with monkeypatch.context() as then:
        then.setitem(tokenizer.__dict__, "fingerprint", earlier_fingerprint(tokenizer))
        before = packed_on_first_use(path, 64, Packing(), tokenizer, tmp_path)
    assert tokenizer.fingerprint != before.tokenizer_fingerprint
    assert packed_on_first_use(path, 64, Packing(), tokenizer, tmp_path).path == before.path
    other = packed_on_first_use(path, 64, Packing(eos_token=CHAT[2]), tokenizer, tmp_path)
    assert other.path != before.path
