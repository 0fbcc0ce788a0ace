"""A tokenizer written for other libraries: transformers gives the ids that jaxpt gives, BOS included."""

import json
from importlib.util import find_spec

import pytest

from jaxpt.tokenizers import load, train_sentencepiece
from jaxpt.tokenizers.exported import exported_files, splits_alike
from jaxpt.tokenizers.huggingface import read_json
from jaxpt.tokenizers.interface import write_contents
from tests.tokenizers import made
from tests.tokenizers.made import CHAT, LINES, LLAMA, TEXTS, spm, with_bos, write_json


@pytest.fixture(scope="module")
def bpe():
    return made.train_bpe()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made.train_sentencepiece(tmp_path_factory.mktemp("model"))


def out(tokenizer, folder, kind):
    """The tokenizer as exported, in a directory of a model of `kind`."""
    write_contents(exported_files(tokenizer), folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


def agrees(tokenizer, folder, texts=TEXTS):
    """Asserts that AutoTokenizer gives the ids of `tokenizer`, which `load` gives too."""
    from transformers import AutoTokenizer

    theirs, again = AutoTokenizer.from_pretrained(folder), load(folder)
    assert again.fingerprint == tokenizer.fingerprint
    for text in texts:
        ids = again.encode_prompt(text)
        want = theirs(text).input_ids
        if want[:2] == [again.bos_id] * 2 and again.adds_bos:  # a text that begins with BOS gets a second one there
            want = want[1:]
        assert ids == want, text
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(tokenizer, f"{name}_id") == getattr(again, f"{name}_id") == getattr(theirs, f"{name}_token_id")


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("case", range(22))
@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
def test_every_form_goes_out_as_one_that_transformers_reads_alike(bpe, model, tmp_path, case, kind):
    _, directory, _ = made.directories(tmp_path, bpe, made.train_qwen2(), model)[case]
    tokenizer = load(directory)
    folder = out(tokenizer, tmp_path / "out", kind)
    alike = splits_alike(exported_files(tokenizer), kind)
    assert alike is (kind == "llama" or case in (2, 3, 4, 16)), "transformers has one splitting for every Qwen 2 model"
    if alike:
        agrees(tokenizer, folder)
    else:
        with pytest.raises(AssertionError):
            agrees(tokenizer, folder)


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
def test_bos_goes_out_as_it_was_asked_for(bpe, tmp_path, asked, built):
    bos = "<|endoftext|>"
    inner = read_json(write_json(tmp_path / "x", bpe) / "tokenizer.json")
    inner = with_bos(inner, bos) if built else inner
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": bos, "eos_token": None, "unk_token": None}
    told = {} if asked is None else {"add_bos_token": asked}
    tokenizer = load(write_json(tmp_path / "a", inner, {**settings, **told}))
    assert tokenizer.adds_bos is (built if asked is None else asked)
    agrees(tokenizer, out(tokenizer, tmp_path / "out", "llama"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_type": "unigram"},
        {"remove_extra_whitespaces": True},
        {"add_dummy_prefix": False},
        {"user_defined_symbols": ["[INST]", "<tags>"], "pad_id": 3},
    ],
)
@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
def test_a_sentencepiece_model_goes_out_with_a_tokenizer_json(tmp_path, options):
    tokenizer = load(made.train_sentencepiece(tmp_path / "a", **options))
    folder = out(tokenizer, tmp_path / "out", "llama")
    assert (folder / "tokenizer.model").read_bytes() == tokenizer.files[0].read_bytes()
    agrees(tokenizer, folder)


@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
def test_tokenizers_of_others_go_out_as_they_are(tmp_path, shared):
    agrees(tok := train_sentencepiece(LINES, tmp_path / "a/t.model", 330), out(tok, tmp_path / "b", "llama"))
    tok = load(shared / "data/tokenizers/llama_style/tokenizer.json")
    assert tok.special_texts["bos_token"] == "<s>"  # the library gives the piece of a normalised added token as "▁<s>"
    agrees(tok, out(tok, tmp_path / "e", "llama"))


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
@pytest.mark.parametrize("name", ["gpt2", "mistral_v1"])
def test_real_vocabularies_go_out_as_they_are(tmp_path, shared, name):
    tokenizer = load(shared / "data/tokenizers" / name)
    agrees(tokenizer, out(tokenizer, tmp_path / "out", "llama"))


def test_a_model_whose_normaliser_the_library_does_not_follow_has_no_tokenizer_json(tmp_path):
    tokenizer = load(made.train_sentencepiece(tmp_path, model_type="unigram", normalization_rule_name="nmt_nfkc"))
    assert exported_files(tokenizer) is None


def test_chat_templates_go_out_where_they_were(bpe, model, tmp_path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    load(write_json(tmp_path / "a", bpe, {"chat_template": named}))
    spm(model, tmp_path / "b", {**LLAMA, "pad_token": CHAT[0]})
    (tmp_path / "b/chat_template.jinja").write_text("plain")
    (tmp_path / "b/additional_chat_templates").mkdir()
    (tmp_path / "b/additional_chat_templates/tool_use.jinja").write_text("tools")
    for name in "ab":
        write_contents(exported_files(load(tmp_path / name)), tmp_path / "out" / name)
        again = load(tmp_path / "out" / name)
        assert again.chat_templates == {"default": "plain", "tool_use": "tools"}
        assert again.apply_chat_template([], tools=["f"]) == "tools"
    assert (tmp_path / "out/b/additional_chat_templates/tool_use.jinja").read_text() == "tools"


def test_a_tokenizer_json_that_says_all_goes_out_byte_for_byte(bpe, tmp_path):
    directory = write_json(tmp_path, bpe, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    assert exported_files(load(directory))["tokenizer.json"] == (directory / "tokenizer.json").read_bytes()
