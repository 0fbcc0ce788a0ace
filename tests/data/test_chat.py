"""Conversations: written by a template, packed like other documents, with loss only on what the assistant wrote."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers as hf

from jaxpt.data.build import Packing, build
from jaxpt.data.chat import conversation_id, normal_messages, within
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import load, train_sentencepiece
from jaxpt.tokenizers.chat import named_template, render_with_spans

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"city": "text"}}}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Will it rain in Zürich? 🙂"},
    {"role": "assistant", "content": "I will look.", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"rain": true}'},
    {"role": "assistant", "content": "Yes, 明天 it rains. 🙂"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Welcome."},
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>"]
# Written as Llama 3's family writes: nothing in it marks what the assistant wrote.
HEADS = """{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>

{{ m.content | trim }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|eot|>{% endfor %}
{%- if add_generation_prompt %}<|head|>assistant<|/head|>

{% endif %}"""


def byte_level(folder, template=None):
    """A small byte-level BPE tokenizer as Hugging Face stores it."""
    inner = hf.ByteLevelBPETokenizer(add_prefix_space=False)
    inner.train_from_iterator([json.dumps(TALK, ensure_ascii=False)] * 4, vocab_size=400, special_tokens=SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return load(folder)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    texts = [json.dumps(TALK, ensure_ascii=False)] * 30
    return train_sentencepiece(texts, tmp_path_factory.mktemp("t") / "tokenizer.model", 330)


def write(folder, talks, tools=None):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"messages": t, **({"tools": tools} if tools else {})}) for t in talks]
    (folder / "talks.jsonl").write_text("\n".join(lines))
    return str(folder)


def learned(source, tokenizer):
    """The text of every run of targets with weight, read out of the batches that come back from disk."""
    out = []
    for row in range(source.rows):
        batch = {k: v[0] for k, v in source.read([row]).items()}
        edge = np.flatnonzero(np.diff(np.concatenate([[0], batch["loss_weights"], [0]])))
        out += [tokenizer.decode(batch["targets"][a:b]) for a, b in zip(edge[::2], edge[1::2])]
    return out


CHATML = [
    'I will look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}\n'
    "</tool_call><|im_end|>",
    "Yes, 明天 it rains. 🙂<|im_end|>",
    "Welcome.<|im_end|>",
]


def test_only_what_the_assistant_wrote_is_learned_function_calls_included(tmp_path):
    tokenizer = byte_level(tmp_path / "t")
    made = build(
        write(tmp_path / "d", [TALK], TOOLS), tmp_path / "p", tokenizer, 512, Packing("chat", template="chatml")
    )
    assert learned(made, tokenizer) == CHATML
    whole = tokenizer.decode(made.read([0])["tokens"][0][: made.tokens])
    assert whole.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert '<|im_start|>user\n<tool_response>\n{"rain": true}\n</tool_response><|im_end|>' in whole


def test_without_the_mask_everything_would_be_learned(tmp_path):  # the proof above can fail
    tokenizer = byte_level(tmp_path / "t")
    text = render_with_spans(named_template("chatml"), TALK, {}).text
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": text}))
    made = build(str(tmp_path / "d.jsonl"), tmp_path / "p", tokenizer, 512, Packing(eos=False, control_tokens="tokens"))
    assert learned(made, tokenizer) == [text.removeprefix("<|im_start|>")]


def test_a_template_that_marks_nothing_is_followed_turn_by_turn(tmp_path):
    tokenizer = byte_level(tmp_path / "t", HEADS)
    made = build(write(tmp_path / "d", [TALK]), tmp_path / "p", tokenizer, 512, Packing("chat"))
    call = 'I will look.{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}<|eot|>'
    assert learned(made, tokenizer) == [call, "Yes, 明天 it rains. 🙂<|eot|>", "Welcome.<|eot|>"]


def test_the_plain_template_serves_a_tokenizer_that_has_none(tmp_path, pieces):
    text = write(tmp_path / "d", [TALK], TOOLS)
    with pytest.raises(JaxptError, match="has no chat template; set template to one of plain, chatml"):
        build(text, tmp_path / "p", pieces, 2048, Packing("chat"))
    made = build(text, tmp_path / "p", pieces, 2048, Packing("chat", template="plain"))
    batch = {k: v[0] for k, v in made.read([0]).items()}
    ends = batch["targets"][(batch["loss_weights"] > 0) & (batch["targets"] == pieces.eos_id)]
    assert len(ends) == 3  # the end of a turn is learned, as one token
    assert batch["tokens"][0] == pieces.bos_id
    assert learned(made, pieces)[2].strip() == "Welcome."


def test_conversations_are_packed_like_the_rest_and_keep_their_ids_under_another_template(tmp_path):
    tokenizer = byte_level(tmp_path / "t")
    talks = [[{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": str(i)}] for i in range(50)]
    text = write(tmp_path / "d", talks)
    ids = []
    for template in ("chatml", "plain"):
        made = build(text, tmp_path / template, tokenizer, 128, Packing("chat", template=template))
        assert made.rows < 50
        assert sorted(learned(made, tokenizer)) == sorted(
            f"{i}{'<|im_end|>' if template == 'chatml' else '<|endoftext|>'}" for i in range(50)
        )
        ids.append({made.column("document_id")[i].tobytes() for i in range(made.documents)})
    assert ids[0] == ids[1] == {conversation_id(normal_messages(t), None) for t in talks}


def test_every_stored_form_of_messages_is_one_conversation(tmp_path):
    tokenizer = byte_level(tmp_path / "t")
    as_text = {
        "type": "function",
        "function": {"name": "weather", "arguments": json.dumps(CALL["function"]["arguments"])},
    }
    stored = [{**m, **({"tool_calls": [as_text]} if "tool_calls" in m else {})} for m in TALK]
    stored[1] = {
        **stored[1],
        "content": [{"type": "text", "text": "Will it rain "}, {"type": "text", "text": "in Zürich? 🙂"}],
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "d.jsonl").write_text(json.dumps({"messages": json.dumps(stored), "tools": json.dumps(TOOLS)}))
    flat = [{**m, "content": TALK[i]["content"]} for i, m in enumerate(stored)]
    (tmp_path / "b").mkdir()
    pq.write_table(pa.Table.from_pylist([{"messages": flat, "tools": json.dumps(TOOLS)}]), tmp_path / "b" / "d.parquet")
    packing = Packing("chat", template="chatml")
    want = build(write(tmp_path / "c", [TALK], TOOLS), tmp_path / "c.packed", tokenizer, 512, packing)
    for name in "ab":
        assert (
            build(str(tmp_path / name), tmp_path / f"{name}.packed", tokenizer, 512, packing).fingerprint
            == want.fingerprint
        )


def test_a_conversation_in_which_the_assistant_is_silent_is_left_out_and_counted(tmp_path):
    tokenizer = byte_level(tmp_path / "t")
    made = build(
        write(tmp_path / "d", [TALK, TALK[:2]]), tmp_path / "p", tokenizer, 512, Packing("chat", template="chatml")
    )
    assert made.documents == 1
    assert made.facts["options"]["left_out"] == 1


FORGETFUL = "{% for m in messages %}{{ m.content if loop.last else m.content[:3] }}|{% endfor %}"


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        ([{"content": "x"}], "chatml", "conversation 1: messages must be a list of objects with a role"),
        ([{"role": "user", "content": 3}], "chatml", "the content of a message is int, not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "chatml", "a part of kind image; only text is read"),
        ([{"role": "assistant", "tool_calls": [{}]}], "chatml", "a tool call must be an object with a function's name"),
        ([{"role": "user", "content": "\ufdd0"}], "chatml", "which are not characters"),
        (TALK, "chatlm", "did you mean 'chatml'"),
        (TALK, "forgetful", "writes turn 3 differently in another place"),
    ],
)
def test_a_mistake_in_a_conversation_is_named(tmp_path, messages, template, message):
    if template == "forgetful":
        template = str(tmp_path / "forgetful.jinja")
        (tmp_path / "forgetful.jinja").write_text(FORGETFUL)
    with pytest.raises(JaxptError, match=message):
        build(
            write(tmp_path / "d", [messages]),
            tmp_path / "p",
            byte_level(tmp_path / "t"),
            64,
            Packing("chat", template=template),
        )
    assert not (tmp_path / "p").exists()


def test_options_of_text_are_refused_for_a_chat_and_the_other_way_round():
    with pytest.raises(JaxptError, match="bos and eos are of kind=text"):
        Packing("chat", eos=True)
    with pytest.raises(JaxptError, match="set kind=chat"):
        Packing(template="plain")


def test_conversations_with_tools_are_written_by_the_template_for_tools(tmp_path):
    tokenizer = byte_level(tmp_path / "t")
    mark = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    tokenizer.chat_templates.update({"default": mark, "tool_use": "T" + mark, "rag": "R" + mark})
    talk = [{"role": "assistant", "content": "yes"}]
    lines = [json.dumps({"messages": talk}), json.dumps({"messages": talk, "tools": [{"name": "f"}]})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    for name, starts in ((None, ["yes", "Tyes"]), ("rag", ["Ryes"] * 2), ("tool_use", ["Tyes"] * 2)):
        packed = build(str(tmp_path / "d.jsonl"), tmp_path / f"p{name}", tokenizer, 8, Packing("chat", template=name))
        assert packed.facts["options"].get("tool_template") == ("T" + mark if name is None else None)
        batch = packed.read(range(packed.rows))
        texts = [
            tokenizer.decode(b[s == k]) for b, s in zip(batch["tokens"], batch["segment_ids"]) for k in set(s) - {0}
        ]
        assert sorted(texts) == sorted(starts)


def test_tokens_of_one_character_fall_on_the_same_side():
    offsets = np.array([[0, 2], [2, 2], [2, 2], [2, 3], [3, 5]])  # a character of three bytes at 2
    assert within(offsets, [(2, 3)]).tolist() == [False, True, True, True, False]
    assert within(offsets, [(1, 2)]).tolist() == [True, False, False, False, False]


def talks_of(file):
    """Function-calling conversations of the shared data, as messages."""
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            origin = json.loads(line)["orig"]
            messages = []
            for turn in origin["conversations"]:
                message = {"role": roles[turn["from"]], "content": turn["value"]}
                if turn["from"] == "function_call":
                    message = {
                        **message,
                        "content": "",
                        "tool_calls": [{"type": "function", "function": json.loads(turn["value"])}],
                    }
                messages.append(message)
            yield messages, json.loads(origin["tools"])


@pytest.mark.parity
@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_ids_and_mask_of_real_conversations_equal_those_of_transformers(tmp_path, shared, name):
    transformers = pytest.importorskip("transformers")
    data = shared / "data"
    inner = hf.ByteLevelBPETokenizer(*(str(data / "tokenizers/gpt2" / f) for f in ("vocab.json", "merges.txt")))
    inner.add_special_tokens(SPECIAL)
    inner.save(str(tmp_path / "tokenizer.json"))
    special = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**special, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **special)
    ours = load(tmp_path)
    tokens = turns = 0
    for language in ("en", "zh"):
        for messages, tools in talks_of(data / f"sft/glaive_toolcall_{language}_demo.jsonl.gz"):
            want = theirs.apply_chat_template(
                messages,
                tools=tools,
                chat_template=named_template(name),
                return_assistant_tokens_mask=True,
                return_dict=True,
            )
            made = render_with_spans(
                named_template(name), messages, {**ours.special_texts, "tools": tools or None}, control=ours.control
            )
            spans = made.spans
            ((ids, offsets),) = ours.encode_with_offsets([made.text], True, [made.literal])
            assert ids.tolist() == want["input_ids"]
            assert within(offsets, spans).astype(int).tolist() == want["assistant_masks"]
            tokens += len(ids)
            turns += len(spans)
    assert tokens > 200_000
    assert turns > 1000
