"""A model's tokenizer from a Hugging Face directory into a bundle and out again, with what ends a generation."""

import json
import shutil

import numpy as np
import pytest

import jaxpt
from jaxpt.commands import generate
from jaxpt.errors import JaxptError
from jaxpt.files.digests import write_files
from jaxpt.generation.ends import end_ids
from jaxpt.interop import export_bundle, import_bundle, load_hf
from jaxpt.tokenizers import load
from jaxpt.tokenizers.fingerprints import earlier_fingerprint
from tests.interop.made import hf_directory
from tests.tokenizers.made import (
    CHAT,
    QWEN,
    decoder,
    train_bpe,
    train_qwen2,
    train_sentencepiece,
    write_json,
    write_slow,
)

SIZE = 512
NAMED = {"default": "plain", "tool_use": "tools"}


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """A model with a slow Qwen 2 tokenizer in a padded vocabulary, several end tokens and named templates."""
    folder = hf_directory(tmp_path_factory.mktemp("hf"), "qwen2", vocab_size=SIZE)
    inner = train_qwen2()
    size = len(json.loads(inner.to_str())["model"]["vocab"])
    named = [{"name": n, "template": t} for n, t in NAMED.items()]
    config = {**QWEN, "added_tokens_decoder": decoder(size), "eos_token": "<|im_end|>", "chat_template": named}
    write_slow(folder, inner, {**config, "add_bos_token": False})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("rag")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [size, size + 2, 7]}))
    return folder


@pytest.fixture(scope="module")
def bundle(hf, tmp_path_factory):
    return import_bundle(hf, tmp_path_factory.mktemp("bundle") / "b")


def test_tokens_templates_and_end_tokens_travel(hf, bundle, tmp_path):
    there, kept = load_hf(hf), jaxpt.load(bundle)
    back = load_hf(export_bundle(bundle, tmp_path / "out"))
    again = jaxpt.load(import_bundle(tmp_path / "out", tmp_path / "again"))
    want = there.tokenizer
    assert want.vocab_size < SIZE
    for model in (kept, back, again):
        tokenizer = model.tokenizer
        assert tokenizer.fingerprint == want.fingerprint
        assert tokenizer.chat_templates == {**NAMED, "rag": "rag"}
        assert tokenizer.apply_chat_template([], tools=["f"]) == "tools"
        assert tokenizer.encode_prompt("<|im_start|>hi") == want.encode_prompt("<|im_start|>hi")
        assert end_ids(model) == end_ids(there) == sorted({7, want.eos_id, want.token_ids(CHAT[0], "")[0]})
    told = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert told == json.loads((hf / "generation_config.json").read_text())


def test_generate_writes_the_ids_of_a_padded_vocabulary_without_a_traceback(tmp_path, capsys):
    """An untrained model at a high temperature; a fifth of the ids are no tokens, which SentencePiece refuses."""
    hf = hf_directory(tmp_path, "llama", vocab_size=SIZE)
    tokenizer = load(train_sentencepiece(hf))
    assert tokenizer.vocab_size < SIZE - 100
    asked = ["--temperature=100", "--max_new_tokens=24", "--seed=3"]
    assert generate.main([f"--model={hf}", "--prompt=hi", *asked]) == 0
    assert capsys.readouterr().out.startswith("hi")


def test_a_bundle_with_the_fingerprint_of_an_earlier_version_opens(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    tokenizer = load(bundle / "tokenizer")
    for name in (earlier_fingerprint(tokenizer), earlier_fingerprint(tokenizer.as_read_before())):
        facts = {**json.loads((bundle / "model.json").read_text()), "tokenizer_fingerprint": name}
        write_files(tmp_path / "b", {"model.json": json.dumps(facts).encode()})
        assert jaxpt.load(tmp_path / "b").tokenizer.fingerprint == tokenizer.fingerprint


def test_a_tokenizer_larger_than_the_vocabulary_is_told_at_import(tmp_path, capsys):
    hf = hf_directory(tmp_path, "llama", vocab_size=300)
    write_json(hf, train_bpe(size=299), {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"})
    import_bundle(hf, tmp_path / "fits")
    assert "the tokenizer has" not in capsys.readouterr().err
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(hf, train_bpe(size=299), config)
    model = jaxpt.load(import_bundle(hf, tmp_path / "b"))
    said = capsys.readouterr().err
    assert (
        "the tokenizer has 301 tokens, the model's vocabulary has 300 entries: '<pad>' to '<pad>' are unknown" in said
    )
    with pytest.raises(JaxptError, match=r"the prompt 'a<pad>' holds '<pad>' \(token 300\)"):
        generate.main([f"--model={tmp_path / 'b'}", "--prompt=a<pad>"])
    assert np.isfinite(model.params["embed"]["table"]).all()


def test_an_export_whose_splitting_transformers_does_not_follow_says_so(tmp_path, capsys):
    hf = hf_directory(tmp_path, "qwen2", vocab_size=SIZE)
    write_slow(hf, train_bpe(), {"tokenizer_class": "GPT2Tokenizer"})
    export_bundle(import_bundle(hf, tmp_path / "b"), tmp_path / "out")
    assert "AutoTokenizer splits the text of every qwen2 model in one way" in capsys.readouterr().err
