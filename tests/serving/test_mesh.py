"""`jaxpt serve --mesh`: over eight devices the answers are those of one."""

from types import SimpleNamespace

import jax
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt.commands import serve
from tests.serving.live import listening_to

PROMPTS = ["Once upon a time", "Lily saw"]
OPTIONS = {"max_tokens": 10, "logprobs": 2, "echo": True, "ignore_eos": True}


def served(shared, mesh):
    options = {"dtype": "float32", "slots": 2, "max_length": 64, "queue": 8, "max_body": 1 << 20, "timeout": 60.0}
    return serve._served(SimpleNamespace(model=f"{shared}/data/stories260K/hf", name=None, mesh=mesh, **options))


@pytest.fixture(scope="module")
def answers(shared):
    """What one device answers, and what eight do; and over how many devices the weights lie."""
    out = {}
    for mesh in ("", "fsdp=4,tensor=2"):
        made = served(shared, mesh)
        with listening_to(made, None) as live:
            places = {len(x.sharding.device_set) for x in jax.tree.leaves(made.thread.engine.weights)}
            out[mesh] = live.complete(prompt=PROMPTS, **OPTIONS)["choices"], max(places)
    return list(out.values())


def test_tokens_and_log_probabilities_over_a_mesh_are_those_of_one_device(answers):
    (one, alone), (eight, all_of_them) = answers
    assert (alone, all_of_them) == (1, 8)
    for a, b in zip(one, eight, strict=True):
        assert a["text"] == b["text"]
        assert a["logprobs"]["tokens"] == b["logprobs"]["tokens"]
        got, want = (c["logprobs"]["token_logprobs"][1:] for c in (b, a))
        assert got == pytest.approx(want, abs=1e-4)
        assert len(want) > OPTIONS["max_tokens"]


def test_those_of_another_prompt_are_others(answers):  # the proof above can fail
    (one, _), (eight, _) = answers
    a, b = one[0]["logprobs"]["token_logprobs"][-10:], eight[1]["logprobs"]["token_logprobs"][-10:]
    assert a != pytest.approx(b, abs=1e-4)
