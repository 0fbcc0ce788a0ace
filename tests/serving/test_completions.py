"""/v1/completions: what is answered is what the engine says, by OpenAI's client and by hand."""

import json

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt.generation import InferenceEngine, Request
from jaxpt.serving.choices import held_back
from jaxpt.serving.logprobs import completion_logprobs

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def engine(live):
    return InferenceEngine(live.model.config, live.model.params, decode=live.model.tokenizer.decode)


@pytest.fixture(scope="module")
def client(live):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def test_openais_client_gets_what_the_engine_continues(client, engine, live):
    ids = live.model.tokenizer.encode_prompt(PROMPT)
    (want,) = engine.generate([Request(ids, 24, logprobs=3)])
    got = client.completions.create(model="stories", prompt=PROMPT, max_tokens=24, temperature=0, logprobs=3)
    assert got.choices[0].text == live.model.tokenizer.decode([*ids, *want.tokens])[len(PROMPT) :]
    np.testing.assert_allclose(got.choices[0].logprobs.token_logprobs, want.logprobs, atol=1e-5)
    assert got.choices[0].finish_reason == "length"
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (5, 24, 29)
    assert [m.id for m in client.models.list()] == ["stories", "other-name"]
    assert client.models.retrieve("stories").id == "stories"


def test_events_add_up_to_the_whole_answer(client):
    options = {
        "model": "stories",
        "prompt": PROMPT,
        "max_tokens": 40,
        "temperature": 0.9,
        "seed": 3,
        "n": 2,
        "logprobs": 2,
    }
    whole = client.completions.create(**options)
    text, tokens, reasons, usage = ["", ""], [[], []], [None, None], None
    for event in client.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        usage = event.usage or usage
        for c in event.choices:
            text[c.index] += c.text
            tokens[c.index] += c.logprobs.token_logprobs
            reasons[c.index] = c.finish_reason or reasons[c.index]
    assert text == [c.text for c in whole.choices]
    assert tokens == [c.logprobs.token_logprobs for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]
    assert usage == whole.usage
    assert text[0] != text[1]  # each of n has random numbers of its own


def test_texts_and_ids_in_lists_and_alone_are_answered_alike(live):
    ids = live.model.tokenizer.encode_prompt(PROMPT)
    alone = live.complete(prompt=PROMPT, max_tokens=8, logprobs=1)["choices"][0]
    many = live.complete(prompt=[PROMPT, "Lily", ids], max_tokens=8, logprobs=1)["choices"]
    assert live.complete(prompt=ids, max_tokens=8, logprobs=1)["choices"][0] == alone
    assert many[0] == alone
    assert many[2] == {**alone, "index": 2}
    assert many[1]["text"] != alone["text"]
    two = live.complete(prompt=[ids, ids], n=2, temperature=1, seed=4, max_tokens=8)["choices"]
    assert [c["index"] for c in two] == [0, 1, 2, 3]
    assert [c["text"] for c in two[:2]] == [c["text"] for c in two[2:]]


def test_an_echo_has_an_entry_for_each_token_of_the_prompt_and_each_new_one(live, engine):
    ids = live.model.tokenizer.encode_prompt(PROMPT + ", there was a big dog")
    (want,) = engine.score([(ids[:1], ids[1:])])
    for new in (0, 1, 3):
        choice = live.complete(prompt=ids, max_tokens=new, echo=True, logprobs=4)["choices"][0]
        given = choice["logprobs"]
        assert {len(values) for values in given.values()} == {len(ids) + new}
        assert given["token_logprobs"][0] is None
        assert given["top_logprobs"][0] is None
        np.testing.assert_allclose(given["token_logprobs"][1 : len(ids)], want.logprobs, atol=1e-5)
        for own, text, top in list(zip(given["token_logprobs"], given["tokens"], given["top_logprobs"]))[1:]:
            assert top[text] == own or max(top.values()) >= own
            assert own in top.values()
            assert len(top) in (4, 5)
        greedy = [own == max(top.values()) for own, top in zip(given["token_logprobs"], given["top_logprobs"]) if top]
        assert greedy[: len(ids) - 1] == want.greedy.tolist()
        assert choice["text"].startswith(PROMPT)


def test_the_generated_entry_stands_even_if_it_is_the_end(live):
    eos = live.model.tokenizer.eos_id
    ids = live.model.tokenizer.encode_prompt(PROMPT)
    answer = live.complete(prompt=ids, max_tokens=1, echo=True, logprobs=1, logit_bias={str(eos): 100})
    (choice,) = answer["choices"]
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1
    assert choice["logprobs"]["tokens"][-1] == "</s>"
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == PROMPT
    assert answer["usage"]["completion_tokens"] == 1


def test_two_tokens_of_one_text_keep_the_larger_logprob():
    class Words:
        def token_text(self, i):
            return {1: "a", 2: "a", 3: "b"}[i]

    one = lambda token, own: completion_logprobs(Words(), [token], [own], [[(1, -0.5), (3, -2.0)]], 0)  # noqa: E731
    assert one(2, -1.5)["top_logprobs"] == [{"a": -0.5, "b": -2.0}]  # else it would be taken for the likeliest
    assert one(1, -0.5)["top_logprobs"] == [{"a": -0.5, "b": -2.0}]


def test_a_stop_text_ends_an_answer_before_it_also_in_events(live, client):
    free = live.complete(prompt=PROMPT, max_tokens=30)["choices"][0]["text"]
    stop = free[11:15]
    (choice,) = live.complete(prompt=PROMPT, max_tokens=30, stop=[stop, "never"])["choices"]
    assert choice["text"] == free[: free.index(stop)]
    assert choice["finish_reason"] == "stop"
    events = client.completions.create(
        model="stories", prompt=PROMPT, max_tokens=30, temperature=0, stop=stop, stream=True
    )
    assert "".join(e.choices[0].text for e in events) == choice["text"]
    assert held_back("abc <|", ("<|end|>", "c ")) == "abc "
    assert held_back("ab\ufffd", ()) == "ab"


def test_stop_ids_end_and_a_bias_moves_what_is_drawn_but_not_its_logprob(live):
    free = live.complete(prompt=PROMPT, max_tokens=4, logprobs=5)["choices"][0]
    first, second = sorted(free["logprobs"]["top_logprobs"][0].items(), key=lambda pair: -pair[1])[:2]
    ids = {live.served.vocabulary.token_text(i): i for i in range(512)}
    moved = live.complete(prompt=PROMPT, max_tokens=1, logprobs=5, logit_bias={ids[first[0]]: -100})["choices"][0]
    assert moved["logprobs"]["tokens"] == [second[0]]
    assert moved["logprobs"]["token_logprobs"] == [second[1]]  # of the model itself
    stopped = live.complete(prompt=PROMPT, max_tokens=4, stop_token_ids=[ids[first[0]]])["choices"][0]
    assert (stopped["finish_reason"], stopped["text"]) == ("stop", "")


def test_nothing_new_and_an_empty_prompt_are_answered(live):
    (choice,) = live.complete(prompt="Lily", max_tokens=0, logprobs=1)["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]["tokens"]) == ("", "length", [])
    bos = live.complete(prompt=[live.model.tokenizer.bos_id], max_tokens=6)["choices"][0]["text"]
    answers = [live.complete(max_tokens=6, **asked) for asked in ({"prompt": ""}, {}, {"prompt": None})]
    assert [a["choices"][0]["text"] for a in answers] == [bos] * 3
    assert answers[0]["usage"]["prompt_tokens"] == 1


def test_bfcls_extensions_are_understood(client):
    answer = client.completions.create(
        model="stories", temperature=0.001, prompt=PROMPT, max_tokens=12, timeout=72000,
        extra_body={"stop_token_ids": [2], "skip_special_tokens": False},
    )  # fmt: skip
    assert answer.choices[0].text
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 12


WRONG = [
    ({"prompt": 5}, 400, "prompt must be"),
    ({"prompt": []}, 400, "not empty"),
    ({"prompt": ["a", []]}, 400, "prompt[1]"),
    ({"prompt": [[1, "a"]]}, 400, "prompt[0]"),
    ({"prompt": [1, 512]}, 400, "token id 512, the model's vocabulary has 512"),
    ({"prompt": [-1]}, 400, "token id -1"),
    ({"prompt": [1] * 513, "max_tokens": 0}, 400, "maximum context length is 512 tokens"),
    ({"prompt": [1] * 512}, 400, "maximum context length is 512 tokens"),
    ({"prompt": [1] * 500, "max_tokens": 13, "echo": True}, 400, "you requested 513 tokens"),
    ({"prompt": "Lily " * 600}, 400, "maximum context length is 512 tokens"),
    ({"max_tokens": "five"}, 400, "max_tokens must be an integer"),
    ({"max_tokens": -1}, 400, "max_tokens must be an integer from 0"),
    ({"max_tokens": True}, 400, "max_tokens"),
    ({"max_tokens": 5.5}, 400, "max_tokens"),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"temperature": 1e-9}, 400, "temperature"),
    ({"temperature": 1e999}, 400, "not a number of JSON"),
    ({"top_p": 0}, 400, "top_p"),
    ({"n": 0}, 400, "n must be an integer from 1"),
    ({"n": 3, "best_of": 5}, 400, "best_of is not supported"),
    ({"suffix": "x"}, 400, "suffix is not supported"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty is not supported"),
    ({"logprobs": 21}, 400, "logprobs"),
    ({"logprobs": True}, 400, "logprobs"),
    ({"logit_bias": {"512": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"1": 101}}, 400, "logit_bias"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, 400, "301 entries"),
    ({"stop": ["a"] * 65}, 400, "stop"),
    ({"stop": ["a" * 501]}, 400, "stop"),
    ({"stop": [1]}, 400, "stop"),
    ({"stop_token_ids": ["a"]}, 400, "stop_token_ids"),
    ({"seed": 2**63}, 400, "seed"),
    ({"stream": "yes"}, 400, "stream must be true or false"),
    ({"stream_options": {"include_usge": True}}, 400, "did you mean 'include_usage'"),
    ({"tempratur": 1}, 400, "did you mean 'temperature'"),
    ({"model": "gpt-4"}, 404, "does not exist; this server has stories"),
    ({"prompt": ["a"] * 600}, 400, "--queue"),
]


@pytest.mark.parametrize(("body", "status", "words"), WRONG, ids=lambda v: str(v)[:40])
def test_what_cannot_be_answered_is_refused_by_key(live, body, status, words):
    raw = json.dumps({"prompt": "Lily", **body}).encode()
    got, answer = live.ask("/v1/completions", raw=raw)
    assert got == status, answer
    assert words in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_keys_that_change_nothing_are_taken(live):
    want = live.complete(prompt=PROMPT, max_tokens=4)["choices"]
    more = {"user": "me", "best_of": 1, "frequency_penalty": 0, "store": False, "metadata": {"a": "b"}, "suffix": None}
    assert live.complete(prompt=PROMPT, max_tokens=4, **more)["choices"] == want
