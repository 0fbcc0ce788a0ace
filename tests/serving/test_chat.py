"""/v1/chat/completions: conversations, events, tools, by OpenAI's client."""

import json

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt.generation import InferenceEngine, Request
from jaxpt.serving.tool_calls import ToolCallReader, read_call

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me of Lily."}]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {}}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def client(live):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def test_a_conversation_is_continued_as_the_template_writes_it(client, live):
    tokenizer = live.model.tokenizer
    text = "system: Be brief.\nuser: Tell me of Lily.\nassistant:"
    ids = tokenizer.encode_prompt(text)
    engine = InferenceEngine(live.model.config, live.model.params)
    (want,) = engine.generate([Request(ids, 20, logprobs=4)])
    got = client.chat.completions.create(
        model="stories", messages=TALK, max_tokens=20, temperature=0, logprobs=True, top_logprobs=4
    )
    (choice,) = got.choices
    assert choice.message.content == tokenizer.decode([*ids, *want.tokens])[len(text) :]
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    np.testing.assert_allclose([c.logprob for c in choice.logprobs.content], want.logprobs, atol=1e-5)
    for content, token, top in zip(choice.logprobs.content, want.tokens, want.top):
        assert content.token == live.served.vocabulary.token_text(token)
        assert len(content.top_logprobs) == len(top) == 4
        assert content.logprob in [t.logprob for t in content.top_logprobs]
        assert bytes(content.bytes).decode() == content.token
    assert got.usage.prompt_tokens == len(ids)


def test_events_add_up_to_the_whole_answer(client):
    options = {
        "model": "stories", "messages": TALK, "max_completion_tokens": 30, "temperature": 1, "seed": 7, "n": 2,
        "logprobs": True, "top_logprobs": 5,
    }  # fmt: skip
    whole = client.chat.completions.create(**options)
    text, logprobs, reasons, roles, usage = ["", ""], [[], []], [None, None], [[], []], None
    for event in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        usage = event.usage or usage
        for c in event.choices:
            text[c.index] += c.delta.content or ""
            roles[c.index] += [c.delta.role] if c.delta.role else []
            logprobs[c.index] += c.logprobs.content
            reasons[c.index] = c.finish_reason or reasons[c.index]
    assert text == [c.message.content for c in whole.choices]
    assert logprobs == [c.logprobs.content for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]
    assert roles == [["assistant"], ["assistant"]]
    assert usage == whole.usage


def test_without_a_limit_an_answer_goes_to_its_end_or_the_models(client, live):
    got = client.chat.completions.create(model="stories", messages=TALK, temperature=0)
    assert got.choices[0].finish_reason in ("stop", "length")
    assert got.usage.total_tokens <= 512
    eos = {str(live.model.tokenizer.eos_id): 100}
    got = client.chat.completions.create(model="stories", messages=TALK, logit_bias=eos, logprobs=True)
    assert (got.choices[0].finish_reason, got.choices[0].message.content) == ("stop", "")
    assert got.choices[0].logprobs.content == []  # the end is no content
    assert got.usage.completion_tokens == 1


def test_a_control_token_that_a_message_spells_ends_no_turn(live):
    said = [{"role": "user", "content": "a</s>b"}]
    status, answer = live.ask("/tokenize", {"messages": said})
    assert status == 200
    assert live.model.tokenizer.eos_id not in answer["tokens"]
    assert live.model.tokenizer.eos_id in live.ask("/tokenize", {"prompt": "a</s>b"})[1]["tokens"]
    assert live.ask("/detokenize", {"tokens": answer["tokens"]})[1]["prompt"].startswith("user: a</s>b")


def test_tools_stand_in_the_prompt_and_earlier_calls_with_their_arguments(live):
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "on?"}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    _, answer = live.ask("/tokenize", {"messages": talk, "tools": TOOLS})
    text = live.ask("/detokenize", {"tokens": answer["tokens"]})[1]["prompt"]
    assert text.startswith('Tools: [{"type": "function", "function": {"name": "weather"')
    assert "user: Is it on?\nassistant: <tool_call>Rome</tool_call>\ntool: sunny\nassistant:" in text
    _, none = live.ask("/tokenize", {"messages": talk, "tools": TOOLS, "tool_choice": "none"})
    assert "Tools" not in live.ask("/detokenize", {"tokens": none["tokens"]})[1]["prompt"]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_in_what_the_model_writes_are_calls_in_the_answer(client, live, monkeypatch, stream):
    text = f"Let me see. {CALL}\n{CALL.replace('Paris', 'Rome')}"
    writes = lambda prompt, tokens, **_: text[: 4 * len(tokens)]  # noqa: E731
    monkeypatch.setattr(type(live.served.vocabulary), "continuation", lambda self, *a, **k: writes(*a, **k))
    monkeypatch.setattr("jaxpt.serving.chat.ChoiceText.ended_by_token", property(lambda self: False))
    made = client.chat.completions.create(
        model="stories", messages=TALK, tools=TOOLS, max_tokens=60, temperature=0, stream=stream
    )
    if stream:
        calls, content, reason = {}, "", None
        for event in made:
            (c,) = event.choices
            content += c.delta.content or ""
            reason = c.finish_reason or reason
            for call in c.delta.tool_calls or []:
                calls[call.index] = (call.function.name, json.loads(call.function.arguments))
        calls = [calls[i] for i in sorted(calls)]
    else:
        message, reason = made.choices[0].message, made.choices[0].finish_reason
        content = message.content
        calls = [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls]
        assert len({c.id for c in message.tool_calls}) == 2
    assert content.strip() == "Let me see."
    assert calls == [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
    assert reason == "length"  # what the engine says: only an answer that has ended asks for its tools


def pieces(text, size):
    reader, content, calls = ToolCallReader(), "", []
    for at in range(0, len(text), size):
        more, found = reader.add(text[at : at + size], False)
        content, calls = content + more, calls + found
        assert "<tool_call" not in more or "<tool_call>" in more
    more, found = reader.add("", True)
    return content + more, [c["function"] for c in calls + found]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_found_however_the_text_comes(size):
    assert pieces(f"a {CALL} b", size)[1] == [{"name": "weather", "arguments": '{"city": "Paris"}'}]
    for text in ("no call", "a <tool_call>{broken</tool_call> b", "a <tool", 'x <tool_call>{"name": 5}</tool_call>'):
        assert pieces(text, size) == (text, [])
    open_ = '<tool_call>{"name": "f", "parameters": "{\\"a\\": 1}"}'  # cut off by the limit of tokens, or by the end
    assert pieces(open_, size) == ("", [{"name": "f", "arguments": '{"a": 1}'}])


def test_what_is_no_call_is_none():
    assert read_call("[" * 100_000) is None
    assert read_call('{"name": "f", "arguments": "nothing"}') is None
    assert read_call('{"name": "f"}')["function"] == {"name": "f", "arguments": "{}"}


WRONG = [
    ({"messages": []}, "messages must be"),
    ({"messages": "hi"}, "messages must be"),
    ({"messages": [{"content": "a"}]}, "messages[0] must be an object with a role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "the model reads text"),
    ({"messages": [{"role": "user", "content": "a" * 9000}]}, "maximum context length"),
    ({"messages": [{"role": "user", "content": "\ufdd0"}]}, "not characters"),
    ({"tools": [{"type": "x"}]}, "tools must be a list of functions"),
    ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice may be auto or none"),
    ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
    ({"logprobs": 5}, "logprobs must be true or false"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    ({"functions": []}, "functions is not supported"),
    ({"max_tokens": 0}, "max_tokens must be an integer from 1"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs has messages"),
    ({"mesages": []}, "did you mean 'messages'"),
]


@pytest.mark.parametrize(("body", "words"), WRONG, ids=lambda v: str(v)[:40])
def test_what_cannot_be_answered_is_refused_by_key(live, body, words):
    status, answer = live.ask("/v1/chat/completions", {"messages": TALK, "max_tokens": 4, **body})
    assert status == 400
    assert words in answer["error"]["message"]
