"""Tokenizers agree with the libraries they wrap, id for id, and one tokenizer has one fingerprint."""

import gzip
import json
import shutil
import threading
import time

import numpy as np
import pytest
import sentencepiece
import tokenizers as hf

from jaxpt.errors import JaxptError
from jaxpt.tokenizers import load, train_sentencepiece

TEXT = [
    "def f(x):\n    return x  # two  spaces\n",
    "naïve café, 中文没有空格 🙂",
    "numbers 12345 and\ttabs",
    " lead",
] * 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_sentencepiece(TEXT, tmp_path_factory.mktemp("tok") / "tokenizer.model", 330)


def sample(shared):
    """English, Chinese and code documents of the shared data, 40 of each, cut at 4,000 characters."""
    texts = []
    for name in ("noisy_web/c4_demo", "chinese/javaguide_md", "code/repos"):
        with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as f:
            texts += [json.loads(line)["text"][:4000] for line, _ in zip(f, range(40))]
    return texts


def test_a_trained_tokenizer_loses_nothing(trained):
    for text in [*TEXT[:4], "   \n\n\t  x", "unseen: ∀ε>0", ""]:
        assert trained.decode(trained.encode(text)) == text
    assert trained.vocab_size == 330
    assert (trained.unk_id, trained.bos_id, trained.eos_id, trained.pad_id) == (0, 1, 2, 3)


def test_batch_encoding_equals_one_by_one(trained):
    for one, many in zip(TEXT, trained.encode_batch(TEXT, bos=True, eos=True), strict=True):
        assert many.dtype == np.int32
        assert many.tolist() == trained.encode(one, bos=True, eos=True) == [1, *trained.encode(one), 2]


def test_saved_tokenizer_is_the_same_tokenizer(trained, tmp_path):
    trained.save(tmp_path / "t")
    assert load(tmp_path / "t").fingerprint == trained.fingerprint
    other = train_sentencepiece(TEXT[:60], tmp_path / "o.model", 320)
    assert other.fingerprint != trained.fingerprint


def test_sentencepiece_agrees_with_its_library_on_real_text(shared):
    file = shared / "data/tokenizers/mistral_v1/tokenizer.model"
    ours, theirs = load(file), sentencepiece.SentencePieceProcessor(model_file=str(file))
    texts = sample(shared)
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        assert ids.tolist() == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids.tolist())


@pytest.mark.parametrize("name", ["llama_style/tokenizer.json", "gpt2"])
def test_hugging_face_agrees_with_its_library_on_real_text(shared, name):
    path = shared / "data/tokenizers" / name
    ours = load(path)
    if name == "gpt2":
        theirs = hf.ByteLevelBPETokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    else:
        theirs = hf.Tokenizer.from_file(str(path))
    texts = sample(shared)
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids
        if name == "gpt2":  # byte-level: nothing is lost
            assert ours.decode(ids) == text


def test_encoding_a_batch_releases_the_gil(shared):
    """This thread goes on while the library is at work, whose call into C would otherwise hold the lock to its end."""
    texts = sample(shared)
    sentencepiece_ = load(shared / "data/tokenizers/mistral_v1")
    json_ = load(shared / "data/tokenizers/gpt2")
    for call in (lambda: sentencepiece_._encode(texts), lambda: json_._inner.encode_batch_fast(texts)):
        thread = threading.Thread(target=call)
        thread.start()
        ticks = 0
        while thread.is_alive():
            ticks += 1
            time.sleep(0.001)
        assert ticks >= 3


@pytest.mark.parametrize("name", ["tokenizers/mistral_v1", "stories260K/hf"])
def test_a_real_model_file_and_its_tokenizer_json_are_one_tokenizer(shared, tmp_path, name):
    model = load(shared / "data" / name)
    inner = as_llama_json(model.files[0], [model.piece(i) for i in range(model.vocab_size)], prefix=True)
    inner.save(str(tmp_path / "tokenizer.json"))
    same = load(tmp_path)
    assert same.fingerprint == model.fingerprint
    texts = sample(shared)
    for text, a, b in zip(texts, model.encode_batch(texts), same.encode_batch(texts), strict=True):
        assert a.tolist() == b.tolist(), text[:60]


def test_one_tokenizer_in_two_formats_has_one_fingerprint(trained, tmp_path):
    """The same pieces written as a tokenizer.json of the Llama form."""
    pieces = [trained.piece(i) for i in range(trained.vocab_size)]
    file = tmp_path / "tokenizer.json"
    inner = as_llama_json(trained.files[0], pieces)
    inner.save(str(file))
    same = load(file)
    probe = "def f(x):\n  return 12  # 中"
    assert same.encode(probe) == trained.encode(probe)
    assert same.fingerprint == trained.fingerprint


def as_llama_json(model_file, pieces, prefix=False):
    """A BPE `tokenizer.json` with byte fallback: a merge for every split of a piece into two, by the piece's id."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    model.ParseFromString(model_file.read_bytes())
    rank = {p.piece: -p.score for p in model.pieces if p.type == 1}
    merges = sorted(
        ((rank[p], (p[:i], p[i:])) for p in rank for i in range(1, len(p)) if p[:i] in rank and p[i:] in rank),
        key=lambda m: m[0],
    )
    inner = hf.Tokenizer(
        hf.models.BPE(
            {p: i for i, p in enumerate(pieces)}, [m for _, m in merges], unk_token="<unk>", byte_fallback=True
        )
    )
    spaces = hf.normalizers.Replace(" ", "▁")
    inner.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend("▁"), spaces]) if prefix else spaces
    inner.decoder = hf.decoders.Sequence(
        [hf.decoders.Replace("▁", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    )
    inner.add_special_tokens([t for t in ("<unk>", "<s>", "</s>", "<pad>") if t in pieces])
    return inner


def test_chat_template_is_read_and_rendered_in_a_sandbox(trained, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    tok = load(tmp_path)
    assert tok.apply_chat_template([{"role": "user", "content": "hi"}]) == "<user>hi</s>"
    (tmp_path / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(JaxptError, match="chat template"):
        load(tmp_path).apply_chat_template([])
    with pytest.raises(JaxptError, match="has no chat template"):
        trained.apply_chat_template([])


def test_of_several_chat_templates_the_default_one_is_taken(trained, tmp_path):
    trained.save(tmp_path)
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ unk_token }}usual"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert load(tmp_path).apply_chat_template([]) == "<unk>usual"


def test_special_tokens_are_those_that_the_files_beside_it_name(trained, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<pad>"}, "pad_token": "n"}))
    assert load(tmp_path).eos_id == trained.pad_id
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<s>"}))
    assert load(tmp_path).eos_id == trained.bos_id
    assert load(tmp_path).fingerprint != trained.fingerprint


def test_tokens_added_beside_the_vocabulary_are_tokens_or_refused(trained, shared, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<s>": 1, "<|im_start|>": 330}))
    assert load(tmp_path).vocab_size == 331
    assert load(tmp_path).piece(330) == "<|im_start|>"
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 333}))
    with pytest.raises(JaxptError, match=r"'<\|im_start\|>' was added beside it with the id 333, .* gives it 330"):
        load(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<s>": 1}))
    assert load(tmp_path).fingerprint == trained.fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"2": {"content": "[INST]"}}}))
    with pytest.raises(JaxptError, match=r"'\[INST\]' was added beside it with the id 2, "):
        load(tmp_path)
    shutil.copytree(shared / "data/tokenizers/gpt2", tmp_path / "q", copy_function=shutil.copyfile)
    (tmp_path / "q").chmod(0o755)
    (tmp_path / "q/tokenizer_config.json").write_text('{"tokenizer_class": "CohereTokenizer"}')
    with pytest.raises(
        JaxptError, match=r"a CohereTokenizer splits text in its own way.* make a tokenizer.json: python"
    ):
        load(tmp_path / "q")


def test_bad_input_is_named(trained, tmp_path):
    with pytest.raises(JaxptError, match="does not exist"):
        load(tmp_path / "none")
    with pytest.raises(JaxptError, match="holds no tokenizer"):
        load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(trained.files[0].read_bytes()[:1000])
    with pytest.raises(JaxptError, match="is not a SentencePiece model"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(JaxptError, match="is not a Hugging Face tokenizer"):
        load(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(JaxptError, match="no tokenizer of 5000 pieces"):
        train_sentencepiece(["short"], tmp_path / "t.model", 5000)


def test_missing_special_token_is_an_error_not_a_silent_skip(shared):
    gpt2 = load(shared / "data/tokenizers/gpt2")
    assert gpt2.unk_id is None
    gpt2.bos_id = None
    with pytest.raises(JaxptError, match="has no BOS token"):
        gpt2.encode("x", bos=True)
