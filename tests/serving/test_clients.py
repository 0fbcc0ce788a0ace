"""Stock clients against the server: lm_eval's, BFCL's, and OpenCompass' LightLLM class."""

import importlib.util
import logging
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")
pytest.importorskip("tenacity")
pytest.importorskip("aiohttp")

from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids
from tests.evaluation.test_harness import data as harness_data

data = harness_data  # the fixture: small sets in the forms that the real ones are published with


@pytest.fixture(scope="module")
def native(live):
    engine = InferenceEngine(live.model.config, live.model.params, decode=live.model.tokenizer.decode)
    made = JaxptModel(engine, live.model.tokenizer, end_ids(live.model), name="native")
    made.encode = lambda string, bos: tuple(live.model.tokenizer.encode_prompt(string, False))  # as the client does
    return made


@pytest.fixture(scope="module")
def completions(live):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        model="stories", base_url=f"{live.url}/v1/completions", max_length=512, num_concurrent=4, batch_size=3,
        max_retries=1,
    )  # fmt: skip


def test_lm_evals_client_finds_the_remote_tokenizer(completions, live):
    assert completions.tokenizer_backend == "remote"
    tokenizer = live.model.tokenizer
    assert completions.eot_token_id == tokenizer.eos_id
    assert completions.prefix_token_id == tokenizer.bos_id
    text = "One day, Lily saw a dög."
    assert completions.tok_encode(text) == tokenizer.encode_prompt(text, False)
    assert completions.decode_batch([tokenizer.encode_prompt(text, False)]) == [text]
    assert completions.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}]) == "user: Hi\nassistant:"


@pytest.mark.slow
@pytest.mark.parametrize(("names", "shots"), [(["hellaswag", "lambada"], 0), (["arc_easy"], 2)])
def test_documents_score_through_the_server_as_through_the_native_adapter(native, completions, data, names, shots):
    import lm_eval

    want = evaluating.evaluate(native, evaluating.find_tasks(names, data), num_fewshot=shots, limit=6)
    tasks = evaluating.find_tasks(names, data)
    got = lm_eval.simple_evaluate(
        completions, tasks=tasks, num_fewshot=shots, limit=6, torch_random_seed=None, bootstrap_iters=0
    )
    count = 0
    for name in names:
        for theirs, ours in zip(got["samples"][name], want["samples"][name], strict=True):
            for (a,), (b,) in zip(theirs["resps"], ours["resps"], strict=True):
                assert abs(a[0] - b[0]) < 1e-3
                assert a[1] == b[1]
                count += 1
        for metric, value in want["results"][name].items():
            if metric.startswith("acc") and "stderr" not in metric:
                assert got["results"][name][metric] == value
    assert count >= 24


def test_a_last_token_that_was_dropped_would_be_noticed(native, completions):
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, ("Once upon a", end), n) for n, end in enumerate([" time", " zz"])]
    got, want = completions.loglikelihood(requests), native.loglikelihood(requests)
    np.testing.assert_allclose([a for a, _ in got], [b for b, _ in want], atol=1e-3)
    assert [a for _, a in got] == [b for _, b in want] == [True, False]
    whole = completions.parse_logprobs

    def short(outputs, **more):
        cut = lambda given: {name: values[:-1] for name, values in given.items()}  # noqa: E731
        choices = [{**c, "logprobs": cut(c["logprobs"])} for c in outputs["choices"]]
        return whole([{"choices": choices}], **more)

    completions.parse_logprobs = short  # as from a server that gives N entries
    try:
        assert abs(completions.loglikelihood(requests)[1][0] - want[1][0]) > 1
    finally:
        del completions.parse_logprobs


def test_rolling_loglikelihoods_are_those_of_the_native_adapter(native, completions):
    from lm_eval.api.instance import Instance

    texts = ["Once upon a time there was a dog.", "Lily saw a ball. " * 60]
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    got = completions.loglikelihood_rolling(requests)
    short = JaxptModel(native.engine, native.words, (), max_length=completions.max_length - 1)
    short.encode = native.encode
    np.testing.assert_allclose(got, short.loglikelihood_rolling(requests), rtol=1e-5)


def test_generations_are_those_of_the_native_adapter(native, completions, live):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion

    options = {"until": [".", "\n\n"], "do_sample": False, "max_gen_toks": 40}
    asked = [
        Instance("generate_until", {}, (t, options), n) for n, t in enumerate(["Once upon a time", "Lily and Tom"])
    ]
    want = native.generate_until(asked)
    assert [text.lstrip() for text in completions.generate_until(asked)] == [text.lstrip() for text in want]
    assert all(want)
    chat = LocalChatCompletion(model="stories", base_url=f"{live.url}/v1/chat/completions", max_retries=1)
    talks = [chat.apply_chat_template([{"role": "user", "content": t}]) for t in ("Tell me a story.", "Who is Tom?")]
    got = chat.generate_until([Instance("generate_until", {}, (t, options), n) for n, t in enumerate(talks)])
    bos = JaxptModel(native.engine, native.words, native.ends)  # a chat template's text begins with BOS
    texts = [bos.apply_chat_template([{"role": "user", "content": t}]) for t in ("Tell me a story.", "Who is Tom?")]
    want = bos.generate_until([Instance("generate_until", {}, (t, options), n) for n, t in enumerate(texts)])
    assert [text.lstrip() for text in got] == [text.lstrip() for text in want]


def test_lightllms_generate_gives_what_opencompass_takes_perplexities_from(live, native):
    text = "Once upon a time there was a dog"
    ids = live.model.tokenizer.encode_prompt(text)
    status, answer = live.ask("/generate", {"inputs": text, "parameters": {}})
    assert status == 200
    assert answer["prompt_token_ids"] == ids
    assert len(answer["prompt_logprobs"]) == len(ids) - 1
    pairs = [logprobs[str(i)] for i, (_, logprobs) in zip(answer["prompt_token_ids"][1:], answer["prompt_logprobs"])]
    (want,) = native.engine.score([(ids[:1], ids[1:])])
    np.testing.assert_allclose(pairs, want.logprobs, atol=1e-5)
    assert [i for i, _ in answer["prompt_logprobs"]] == ids[1:]
    (made,) = answer["generated_text"]
    assert made == live.complete(prompt=text, max_tokens=16)["choices"][0]["text"]
    drawn = {"do_sample": True, "temperature": 1.0, "seed": 3, "max_new_tokens": 5, "stop_sequences": ["zz"]}
    assert live.ask("/generate", {"inputs": text, "parameters": drawn})[1]["count_output_tokens"] == 5
    for wrong in (
        {"inputs": 5},
        {},
        {"inputs": "a", "parameters": {"repetition_penalty": 1.5}},
        {"inputs": "a", "x": 1},
    ):
        assert live.ask("/generate", wrong)[0] == 400


def test_a_prompt_that_takes_all_the_room_is_judged_and_not_continued(live):
    full = " a" * 511
    assert len(live.model.tokenizer.encode_prompt(full[1:])) == 512
    status, answer = live.ask("/generate", {"inputs": full[1:]})
    assert (status, answer["count_output_tokens"], len(answer["prompt_logprobs"])) == (200, 0, 511)
    status, answer = live.ask("/generate", {"inputs": full[1:], "parameters": {"max_new_tokens": 5}})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


def module_among_others(name, file, others):
    """A module out of its file alone; what it imports of the rest of its package is stood in for by `others`."""
    with pytest.MonkeyPatch.context() as patch:
        for other, values in others.items():
            module = types.ModuleType(other)
            module.__dict__.update(values)
            module.__path__ = []
            patch.setitem(sys.modules, other, module)
        spec = importlib.util.spec_from_file_location(name, file)
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    return made


def bfcl_handler(monkeypatch, live):
    """BFCL's own handler of models behind a server; how it judges calls, which asks for much, is stood in for."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None:
        pytest.skip("needs bfcl-eval: pip install --no-deps bfcl-eval")
    itself = lambda method: method  # noqa: E731
    base = type(
        "BaseHandler",
        (),
        {"__init__": lambda self, name, temperature, *_, **__: setattr(self, "temperature", temperature)},
    )
    nothing = (
        "default_decode_ast_prompting",
        "default_decode_execute_prompting",
        "system_prompt_pre_processing_chat_model",
    )
    parts = {
        "bfcl_eval": {},
        "bfcl_eval.constants": {},
        "bfcl_eval.constants.enums": {"ModelStyle": types.SimpleNamespace(OSSMODEL="oss")},
        "bfcl_eval.constants.eval_config": {"LOCAL_SERVER_PORT": 0},
        "bfcl_eval.model_handler": {},
        "bfcl_eval.model_handler.base_handler": {"BaseHandler": base},
        "bfcl_eval.model_handler.utils": dict.fromkeys(nothing),
        "bfcl_eval.utils": {"contain_multi_turn_interaction": None},
        "overrides": {"EnforceOverrides": object, "final": itself, "override": itself},
    }
    folder = Path(spec.submodule_search_locations[0]) / "model_handler/local_inference"
    made = module_among_others(
        "bfcl_eval.model_handler.local_inference.base_oss_handler", folder / "base_oss_handler.py", parts
    )
    monkeypatch.setenv("REMOTE_OPENAI_BASE_URL", f"{live.url}/v1")
    write = lambda self, messages, functions: messages[0]["content"]  # noqa: E731
    return type("Handler", (made.OSSHandler,), {"_format_prompt": write})("stories", 0.0, "stories", False)


def test_bfcls_own_handler_takes_what_the_model_writes(live, monkeypatch):
    handler = bfcl_handler(monkeypatch, live)
    handler.model_path_or_id, handler.max_context_length = "stories", 40
    handler.tokenizer = types.SimpleNamespace(tokenize=live.model.tokenizer.encode_prompt)
    handler.stop_token_ids, handler.skip_special_tokens = [live.model.tokenizer.eos_id], False
    text = "Once upon a time there was a dog"
    response, _ = handler._query_prompting({"message": [{"role": "user", "content": text}], "function": []})
    parsed = handler._parse_query_response_prompting(response)
    assert parsed["input_token"] == len(live.model.tokenizer.encode_prompt(text))
    assert parsed["output_token"] == 40 - 2 - parsed["input_token"]
    assert (
        parsed["model_responses"]
        == live.complete(prompt=text, max_tokens=parsed["output_token"], temperature=0)["choices"][0]["text"]
    )


def opencompass_class():
    """OpenCompass' own `LightllmAPI`, from the checkout that JAXPT_OPENCOMPASS names."""
    folder = os.environ.get("JAXPT_OPENCOMPASS")
    if not folder:
        pytest.skip("JAXPT_OPENCOMPASS names no checkout of OpenCompass")
    model = type("BaseModel", (), {"__init__": lambda self, **_: None})
    bucket = type("TokenBucket", (), {"__init__": lambda self, *_: None, "get_token": lambda self: None})
    registry = type("Registry", (), {"register_module": lambda self: lambda cls: cls})
    parts = {
        "opencompass": {},
        "opencompass.registry": {"MODELS": registry()},
        "opencompass.utils": {},
        "opencompass.utils.logging": {"get_logger": logging.getLogger},
        "opencompass.models": {},
        "opencompass.models.base": {"BaseModel": model},
        "opencompass.utils.prompt": {"PromptList": list},
        "opencompass.models.base_api": {"TokenBucket": bucket, "BaseAPIModel": object},
    }
    file = Path(folder) / "opencompass/models/lightllm_api.py"
    made = module_among_others("opencompass.models.lightllm_api", file, parts)
    return made.LightllmAPI


def test_opencompass_own_class_takes_perplexities_and_texts(live, native):
    api = opencompass_class()(url=f"{live.url}/generate", generation_kwargs={"max_new_tokens": 8, "do_sample": False})
    texts = ["Once upon a time there was a dog", "Lily was happy.", ""]
    got = api.get_ppl(texts, None)
    for text, ppl in zip(texts, got):
        ids = live.model.tokenizer.encode_prompt(text)
        want = -native.engine.score([(ids[:1], ids[1:])])[0].logprobs.mean() if ids[1:] else 0.0
        assert abs(ppl - want) < 1e-4
    made = api.generate(texts[:1], 8)
    assert made == [live.complete(prompt=texts[0], max_tokens=8)["choices"][0]["text"]]


def test_texts_become_tokens_and_texts_again(live):
    tokenizer = live.model.tokenizer
    asked = {"prompt": "Lily</s>", "return_token_strs": True}
    _, answer = live.ask("/tokenize", asked)
    assert answer["tokens"] == tokenizer.encode_prompt("Lily</s>")
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 512
    _, bare = live.ask("/tokenize", {"prompt": "Lily</s>", "add_special_tokens": False})
    assert bare["tokens"] == answer["tokens"][1:]
    assert live.ask("/detokenize", {"tokens": answer["tokens"]}) == (200, {"prompt": "Lily"})
    _, talk = live.ask("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
    assert talk["tokens"] == tokenizer.encode_prompt("user: Hi\nassistant:")
    _, info = live.ask("/tokenizer_info")
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
    for path, wrong in [("/tokenize", {}), ("/detokenize", {"tokens": ["a"]}), ("/detokenize", {"tokens": [512]})]:
        assert live.ask(path, wrong)[0] == 400
