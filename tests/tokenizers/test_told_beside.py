"""Tokenizers whose files do not say all in one place: slow forms, tokens told beside, named templates, padded ids."""

import inspect
import json
from importlib.util import find_spec

import pytest

from jaxpt.errors import JaxptError
from jaxpt.tokenizers import load
from jaxpt.tokenizers.classes import CLASSES, NAMES
from jaxpt.tokenizers.fingerprints import accepts, earlier_fingerprint, earlier_names, known_as
from jaxpt.tokenizers.huggingface import HuggingFaceTokenizer, as_gpt2, read_json
from tests.tokenizers.made import (
    CHAT,
    LLAMA,
    QWEN,
    TEXTS,
    directories,
    qwen2_split,
    spm,
    train_bpe,
    train_qwen2,
    train_sentencepiece,
    with_bos,
    write_json,
    write_slow,
)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe()


@pytest.fixture(scope="module")
def qwen():
    return train_qwen2()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_sentencepiece(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("case", range(22))
@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
def test_every_form_is_built_as_transformers_builds_it(bpe, qwen, model, tmp_path, case):
    import transformers

    name, directory, kind = directories(tmp_path, bpe, qwen, model)[case]
    ours, theirs = load(directory), getattr(transformers, kind).from_pretrained(directory)
    for text in TEXTS:
        ids = ours.encode_prompt(text, bos=False)
        assert ids == theirs(text, add_special_tokens=False).input_ids, (name, text)
    for special in ("bos", "eos", "pad", "unk"):
        assert getattr(ours, f"{special}_id") == getattr(theirs, f"{special}_token_id"), (name, special)
    assert ours.vocab_size == len(theirs), name
    special = [t.content for _, t in sorted(theirs.added_tokens_decoder.items()) if t.special]
    assert [text for _, text, _ in ours.special_tokens()] == special, name


@pytest.mark.parametrize("name", list(CLASSES))
@pytest.mark.parity
@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers: install jaxpt[parity]")
def test_defaults_of_a_class_are_those_of_transformers(name):
    import transformers

    usual = inspect.signature(getattr(transformers, name).__init__).parameters
    texts = {n: str(p.default) for n in NAMES if (p := usual.get(f"{n}_token")) is not None and p.default is not None}
    assert dict(CLASSES[name].special) == texts


def test_a_bare_class_has_its_special_tokens_and_a_token_set_to_null_is_none(bpe, qwen, tmp_path):
    one = load(write_json(tmp_path / "a", bpe, {"tokenizer_class": "GPT2TokenizerFast"}))
    assert one.bos_id == one.eos_id == one.unk_id == bpe.token_to_id("<|endoftext|>")
    assert load(write_json(tmp_path / "b", qwen, {**QWEN, "eos_token": None})).eos_id is None
    assert load(write_json(tmp_path / "c", qwen, QWEN)).bos_id is None


def test_an_eos_that_the_vocabulary_lacks_is_added_and_ends_a_text(bpe, tmp_path):
    tok = load(write_json(tmp_path, bpe, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}))
    assert tok.eos_id == bpe.get_vocab_size() == tok.vocab_size - 1
    assert tok.encode("hi", eos=True)[-1] == tok.eos_id
    assert tok.decode([tok.eos_id]) == "<|im_end|>"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"500": {"content": "<x>"}}, "'<x>' was added beside it with the id 500, the library gives it"),
        ({"0": {"content": "<x>"}}, "'<x>' was added beside it with the id 0"),
        ({"one": {"content": "<x>"}}, "it must be tokens by their ids"),
        ({"405": {"text": "<x>"}}, "it must be tokens by their ids"),
        (["<x>"], "it must be tokens by their ids"),
    ],
)
def test_tokens_that_cannot_be_added_as_told_are_refused(bpe, tmp_path, told, said):
    with pytest.raises(JaxptError, match=said):
        load(write_json(tmp_path, bpe, {"added_tokens_decoder": told}))


def test_a_vocabulary_that_names_no_class_is_gpt2_s_or_refused(bpe, qwen, tmp_path):
    assert load(write_slow(tmp_path / "a", bpe)).eos_id == bpe.token_to_id("<|endoftext|>")
    with pytest.raises(
        JaxptError, match=r"which GPT-2's way of splitting never makes .*; name its class in tokenizer_co"
    ):
        load(write_slow(tmp_path / "b", qwen))
    with pytest.raises(JaxptError, match=r"holds '<\|im_start\|>', which GPT-2's"):
        load(write_slow(tmp_path / "c", train_bpe(special=CHAT)))
    named = load(write_slow(tmp_path / "d", qwen, config={}, **{"../d/config": {"model_type": "qwen2"}}))
    assert named.encode("12") == load(write_slow(tmp_path / "e", qwen, QWEN)).encode("12")
    named.save(tmp_path / "kept")  # a bundle keeps no config.json
    assert load(tmp_path / "kept").fingerprint == named.fingerprint
    (tmp_path / "a/merges.txt").write_text("#version\nno such merge here\n")
    with pytest.raises(JaxptError, match=r"merges.txt are no byte-level BPE"):
        load(tmp_path / "a")


def right_and_wrong(folder, inner):
    """One byte-level vocabulary: as its tokenizer.json says, and as earlier versions read its slow form."""
    right = load(write_json(folder / "right", inner, {**QWEN, "eos_token": "<|im_end|>"}))
    model = read_json(folder / "right/tokenizer.json").model
    return right, HuggingFaceTokenizer(as_gpt2(model), right.files, right.settings, right.name)


def test_the_fingerprint_tells_special_tokens_and_splitting_apart(tmp_path):
    inner = train_bpe(split=qwen2_split(), special=CHAT)
    right, wrong = right_and_wrong(tmp_path, inner)
    probe = "It's 1234567"
    wrong_ids, right_ids = (t.encode_prompt("<|im_end|>", bos=False) for t in (wrong, right))
    assert (len(right_ids), len(wrong_ids) > 1) == (1, True)
    assert right.fingerprint != wrong.fingerprint, probe
    assert load(right.files[0]).fingerprint == load(tmp_path / "right").fingerprint == right.fingerprint


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer", "special", "lstrip"])
def test_each_part_of_the_splitting_changes_the_fingerprint(qwen, tmp_path, part):
    before = load(write_json(tmp_path / "a", qwen)).fingerprint
    described = json.loads(qwen.to_str())
    if part in ("special", "lstrip"):
        described["added_tokens"][1][part] = part == "lstrip"
    elif part == "normalizer":
        described["normalizer"] = None
    else:
        described["pre_tokenizer"] = json.loads(train_bpe(size=300).to_str())["pre_tokenizer"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/tokenizer.json").write_text(json.dumps(described))
    assert load(tmp_path / "b").fingerprint != before
    (tmp_path / "b/tokenizer.json").write_text(json.dumps(json.loads(qwen.to_str())))
    assert load(tmp_path / "b").fingerprint == before


def test_an_earlier_fingerprint_is_accepted_where_it_names_the_same_tokenizer(bpe, model, tmp_path, capsys):
    for tok in (load(model), load(write_json(tmp_path / "a", bpe)), load(write_slow(tmp_path / "b", bpe))):
        stored = earlier_fingerprint(tok)
        assert stored != tok.fingerprint
        assert accepts(tok, stored, "packed")
        assert accepts(tok, tok.fingerprint, "packed")
        assert known_as(tok, stored)
        assert stored in earlier_names(tok)
        assert not accepts(tok, "0" * 64, "packed")
        assert not accepts(tok, None, "packed")
    assert not capsys.readouterr().err


def test_what_was_packed_with_a_tokenizer_read_wrongly_is_refused_and_its_bundle_opens(qwen, tmp_path):
    """A slow Qwen 2 without a class was split as GPT-2 splits."""
    tok = load(write_slow(tmp_path, qwen, config={}, **{"../" + tmp_path.name + "/config": {"model_type": "qwen2"}}))
    stored = earlier_fingerprint(tok.as_read_before())
    with pytest.raises(JaxptError, match=r"packed/web was made by an earlier jaxpt that read .* make it again"):
        accepts(tok, stored, "packed/web")
    assert known_as(tok, stored)
    assert stored not in earlier_names(tok)


def test_an_earlier_fingerprint_that_two_tokenizers_share_is_told(tmp_path, capsys):
    """The digits of the short text of before are no pieces of this vocabulary, so that it saw no difference."""
    inner = train_bpe(size=300, split=qwen2_split(), special=CHAT)
    right, wrong = right_and_wrong(tmp_path, inner)
    stored = earlier_fingerprint(right)
    if earlier_fingerprint(wrong) == stored:
        assert accepts(right, stored, "packed/web")
        assert "does not tell" in capsys.readouterr().err
        assert stored not in earlier_names(right)
    else:
        pytest.fail("the vocabulary is to be so small that the earlier fingerprint is blind")


def test_a_bundle_imported_with_a_bare_class_is_known_by_the_fingerprint_of_then(bpe, tmp_path):
    tok = load(write_json(tmp_path, bpe, {"tokenizer_class": "GPT2Tokenizer"}))
    before = tok.as_read_before()
    assert before.eos_id is None
    assert known_as(tok, earlier_fingerprint(before))
    assert accepts(tok, earlier_fingerprint(before), "packed")


def test_ids_beyond_the_vocabulary_are_left_out_in_every_form(bpe, model, tmp_path):
    for tok in (load(model), load(write_json(tmp_path / "a", bpe))):
        ids = tok.encode("hi there")
        assert tok.decode([*ids, tok.vocab_size, tok.vocab_size + 63, 10**9, -1]) == tok.decode(ids)
        assert tok.piece(tok.vocab_size) == tok.piece(-1) == ""


@pytest.mark.parametrize("form", ["list", "files"])
def test_tools_are_written_by_the_template_for_tools_and_all_templates_travel(bpe, tmp_path, form):
    templates = {"default": "plain", "tool_use": "tools: {{ tools|length }}", "rag": "rag"}
    named = [{"name": n, "template": t} for n, t in templates.items()]
    write_json(tmp_path / "a", bpe, {"chat_template": named} if form == "list" else {})
    if form == "files":
        (tmp_path / "a/chat_template.jinja").write_text("plain")
        (tmp_path / "a/additional_chat_templates").mkdir()
        for name in ("tool_use", "rag"):
            (tmp_path / f"a/additional_chat_templates/{name}.jinja").write_text(templates[name])
    load(tmp_path / "a").save(tmp_path / "b")
    for folder in "ab":
        tok = load(tmp_path / folder)
        assert tok.apply_chat_template([]) == "plain"
        assert tok.apply_chat_template([], tools=[{"name": "f"}]) == "tools: 1"
        assert tok.apply_chat_template([], tools=None) == "plain"
        assert tok.chat_templates == templates


def test_templates_of_another_form_are_named(bpe, tmp_path):
    for value in ([{"name": "default"}], ["x"], [{"name": [], "template": "x"}], 3):
        with pytest.raises(JaxptError, match=r"chat_template .*must be (a template|text)"):
            load(write_json(tmp_path / "a", bpe, {"chat_template": value}))
    only = load(write_json(tmp_path / "b", bpe, {"chat_template": [{"name": "tool_use", "template": "x"}]}))
    with pytest.raises(JaxptError, match="has chat templates only for tool_use"):
        only.apply_chat_template([])
    (tmp_path / "b/additional_chat_templates").mkdir()
    (tmp_path / "b/additional_chat_templates/x.jinja").symlink_to("/etc/hostname")
    with pytest.raises(JaxptError, match=r"x\.jinja is not read: it is a link out of"):
        load(tmp_path / "b")


def test_a_prompt_begins_with_bos_as_the_tokenizer_says_and_never_twice(bpe, model, tmp_path):
    bos = "<|endoftext|>"
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos}
    inner = read_json(write_json(tmp_path / "x", bpe) / "tokenizer.json")
    cases = [
        (load(write_json(tmp_path / "a", inner, plain)), False),
        (load(write_json(tmp_path / "b", inner, {**plain, "add_bos_token": True})), True),
        (load(write_json(tmp_path / "c", with_bos(inner, bos), plain)), True),
        (load(write_json(tmp_path / "d", with_bos(inner, bos), {**plain, "add_bos_token": False})), False),
        (load(model), True),
        (load(spm(model, tmp_path / "e", {"add_bos_token": False})), False),
        (load(spm(model, tmp_path / "f", {**LLAMA, "pad_token": "<pad>"})), True),
    ]
    for tok, begins in cases:
        first = tok.piece(tok.bos_id)
        assert (tok.encode_prompt("hi")[0] == tok.bos_id) is begins
        assert tok.encode_prompt(f"{first}hi").count(tok.bos_id) == 1
        assert tok.bos_id not in tok.encode_prompt("hi", bos=False)


def test_tokens_written_one_after_the_other_are_their_ids(qwen, tmp_path):
    tok = load(write_json(tmp_path, qwen, QWEN))
    ids = [qwen.token_to_id(t) for t in CHAT]
    assert tok.token_ids("<|im_end|>", "eos_token") == [ids[2]]
    assert tok.token_ids("<|im_end|><|endoftext|>", "eos_token") == [ids[2], ids[0]]
    for bad in ("<|im_edn|>", "", "end", "<|im_end|> "):
        with pytest.raises(JaxptError, match=r"eos_token=.* is no control token of"):
            tok.token_ids(bad, "eos_token")


def test_a_llama_model_is_known_by_what_it_was_taken_for_and_what_was_packed_so_is_refused(model, tmp_path):
    """Its own library puts another space before a text that begins with one, and one behind every control token."""
    was = load(model / "tokenizer.model")
    now = load(spm(model, tmp_path / "a", LLAMA))
    for text, differs in ((" x", True), ("</s>x", True), ("x </s>", False), ("", False), ("<s>", False)):
        assert (was.encode(text, control_tokens=True) != now.encode(text, control_tokens=True)) is differs, text
    for name in (was.fingerprint, earlier_fingerprint(was)):
        assert known_as(now, name)  # of a bundle that holds these files
        with pytest.raises(JaxptError, match=r"the rows was made by an earlier jaxpt .* make it again"):
            accepts(now, name, "the rows")
    assert accepts(now, now.fingerprint, "the rows")
    assert not known_as(was, now.fingerprint)
