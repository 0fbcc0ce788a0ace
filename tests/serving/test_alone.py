"""An answer is exactly, bit for bit, that of the request alone, whatever its neighbours ask."""

import dataclasses
import time

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt.generation import InferenceEngine, Request, Sampling
from jaxpt.generation import slots as slots_module
from jaxpt.serving.engine_thread import EngineThread
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.refusal import Refusal
from tests.models.tiny import VARIANTS, random_params

RNG = np.random.default_rng(0)


def prompt(length):
    return [int(i) for i in RNG.integers(1, 60, length)]


LONG = prompt(600)  # two pieces
ASKED = [
    (prompt(7), {"sampling": Sampling(0.9), "seed": 1, "logprobs": 3}, 12, None),
    (LONG, {"logprobs": 0}, 9, None),
    (prompt(30), {"sampling": Sampling(1.1, top_k=5), "seed": 2}, 20, 2),
    ([*LONG[:560], *prompt(9)], {"logprobs": 2}, 5, 1),  # begins as another one, but not for a whole piece
    (prompt(3), {"sampling": Sampling(1.0, top_p=0.8), "logprobs": 1, "logit_bias": ((5, 2.0),)}, 16, None),
    (prompt(12), {}, 1, 5),
    (prompt(40), {}, 0, 3),
    (prompt(5), {"sampling": Sampling(0.7), "logprobs": 20}, 24, 0),
]


def job(asked):
    tokens, options, new, top = asked
    requests = [Request(tokens, new, **options, stream=n) for n in range(2)] if new else []
    return PromptJob(tokens, requests, top, time.monotonic() + 120)


def thread(config, **changes):
    engine = InferenceEngine(config, random_params(config))
    made = EngineThread(engine, **{"slots": 4, "max_length": 640, "waiting": 64, **changes})
    made.start()
    return made


def answers(engine, asked):
    jobs = [job(a) for a in asked]
    engine.submit(jobs)
    until = time.monotonic() + 120
    while not all(j.over for j in jobs):
        assert time.monotonic() < until
        time.sleep(0.005)
    assert not any(j.refusal for j in jobs)
    return [
        (j.prompt_logprobs, j.prompt_likeliest, [(c.tokens, c.logprobs, c.top) for c in j.completions]) for j in jobs
    ]


def differ(config):
    """Which of the requests are answered otherwise among the others than alone."""
    config = dataclasses.replace(config, max_positions=640)
    engine = thread(config)
    together = answers(engine, ASKED)
    again = answers(engine, ASKED[::-1])[::-1]
    alone = [answers(engine, [asked])[0] for asked in ASKED]
    engine.stop(0)
    assert engine.join(10)
    return [n for n, three in enumerate(zip(alone, together, again)) if not three[0] == three[1] == three[2]]


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_tokens_and_logprobs_are_those_of_the_request_alone(name):
    assert differ(VARIANTS[name]) == []


def test_an_answer_that_depends_on_its_neighbours_would_be_noticed(monkeypatch):
    finish = slots_module.finish
    leaking = lambda *args: (out := finish(*args)) + 1e-6 * jnp.mean(out)  # noqa: E731
    monkeypatch.setattr(slots_module, "finish", leaking)
    config = dataclasses.replace(VARIANTS["llama"], norm_eps=2e-6)  # of its own: no program is compiled already
    assert len(differ(config)) >= 4


def test_a_prefix_of_another_prompt_that_was_taken_would_be_noticed():
    config = dataclasses.replace(VARIANTS["llama"], max_positions=640)
    engine = InferenceEngine(config, random_params(config))
    reader = engine.reader(LONG, top=0)
    while not reader.done:
        reader.step()
    assert len(reader.logprobs) == 599
    (want,) = engine.score([(LONG[:1], LONG[1:])])
    np.testing.assert_allclose(reader.logprobs, want.logprobs, atol=3e-5)
    other = engine.reader([*LONG[:100], (LONG[100] + 1) % 60, *LONG[101:]], top=0)
    while not other.done:
        other.step()
    assert other.logprobs[:99] == reader.logprobs[:99]
    assert other.logprobs[520:] != reader.logprobs[520:]


def test_long_prompts_do_not_hold_up_tokens_and_neither_the_other_way_round():
    config = dataclasses.replace(VARIANTS["llama"], max_positions=4096)
    engine = thread(config, max_length=4096, slots=2)
    answers(engine, [(prompt(1100), {}, 0, 0), (prompt(4), {}, 3, None)])  # compiled
    slow = [PromptJob([1, 2], [Request([1, 2], 900)], None, time.monotonic() + 60) for _ in range(4)]
    engine.submit(slow)  # all slots, and more that wait for one
    judged = [PromptJob(prompt(1100), [], 0, time.monotonic() + 60) for _ in range(6)]
    engine.submit(judged)
    until = time.monotonic() + 60
    while not all(j.finished for j in judged):
        assert time.monotonic() < until
        time.sleep(0.005)
    made = [j.visible[0] for j in slow]
    assert sorted(made)[2] > 8  # tokens came meanwhile
    assert max(made) < 900  # and what is judged has not waited for their end
    for j in slow:
        engine.cancel(j)
    while engine.busy or engine.queued:
        assert time.monotonic() < until
        time.sleep(0.005)
    engine.stop(0)
    assert engine.join(10)


def test_a_failing_engine_fails_its_requests_and_is_made_again(monkeypatch, capsys):
    engine = thread(dataclasses.replace(VARIANTS["llama"], max_positions=64), max_length=64)
    monkeypatch.setattr(engine._slots, "advance", lambda: 1 / 0)
    broken = PromptJob([1], [Request([1], 8)], None, time.monotonic() + 60)
    engine.submit([broken])
    until = time.monotonic() + 30
    while not broken.over:
        assert time.monotonic() < until
        time.sleep(0.005)
    assert (broken.refusal.status, broken.refusal.code) == (500, "engine_failure")
    assert answers(engine, [([1], {}, 8, None)])
    assert engine.healthy
    assert "ZeroDivisionError" in capsys.readouterr().err
    engine.stop(0)
    assert engine.join(10)


def test_an_engine_that_cannot_be_made_again_refuses_what_waits_and_what_comes(monkeypatch, capsys):
    engine = thread(dataclasses.replace(VARIANTS["llama"], max_positions=64), max_length=64, slots=1)
    monkeypatch.setattr(engine._slots, "advance", lambda: 1 / 0)
    monkeypatch.setattr(engine, "_fresh", lambda: 1 / 0)
    jobs = [PromptJob([1], [Request([1], 8)], None, time.monotonic() + 60) for _ in range(3)]
    engine.submit(jobs)
    assert engine.join(30)
    assert all(j.over for j in jobs)
    assert {j.refusal.code for j in jobs} == {"engine_failure"}
    assert not engine.healthy
    with pytest.raises(Refusal, match="start the server again"):
        engine.submit([PromptJob([1], [], None, time.monotonic() + 60)])
    assert "ZeroDivisionError" in capsys.readouterr().err
