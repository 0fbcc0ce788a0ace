"""Greedy output in float32 is that of transformers, token for token."""

import importlib.util

import numpy as np
import pytest

from jaxpt.generation import InferenceEngine, Request
from jaxpt.interop import load_hf
from tests.interop.foreign import made

missing = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}: install jaxpt[parity]"),
]


@pytest.mark.parametrize("name", ["llama_tied_biased", "mistral", "gemma2", "qwen3_moe"])
def test_greedy_tokens_are_those_of_transformers(name, tmp_path):
    import torch

    theirs = made(name).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_hf(tmp_path)
    prompts = [p.tolist() for p in (np.arange(3, 12), np.arange(20, 25))]
    got = InferenceEngine(ours.config, ours.params).generate([Request(p, 12) for p in prompts])
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    for prompt, completion in zip(prompts, got):
        ids = torch.tensor([prompt])
        want = theirs.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **options)
        assert completion.tokens == want[0, len(prompt) :].tolist()
