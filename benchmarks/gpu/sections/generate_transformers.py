"""transformers' generate at the same shape, with its static cache (which it compiles) and its growing one."""

import time
from typing import Any

import torch

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections.torch_attention import device, wait
from benchmarks.gpu.sizes import Sizes


def measure(sizes: Sizes, rows: Rows) -> None:
    """The growing cache first, as it compiles nothing."""
    model = made(sizes)
    rows.measure("generate transformers", 15, lambda: run(sizes, model, None))
    rows.measure("generate transformers, static cache", 40, lambda: run(sizes, model, "static"))


def made(sizes: Sizes) -> Any:
    """A Llama with random parameters in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = sizes.model
    config = LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.embed,
        intermediate_size=c.mlp,
        num_hidden_layers=len(c.layers),
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_positions,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    with torch.device(device()):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def run(sizes: Sizes, model: Any, cache: str | None) -> dict[str, Any]:
    """The second of two calls."""
    from benchmarks.gpu.made_prompts import lengths, prompts

    batch, _, new = lengths(sizes)
    tokens = torch.tensor(prompts(sizes), device=device())
    given = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    given |= {"cache_implementation": cache} if cache else {}

    def one() -> float:
        wait()
        begun = time.perf_counter()
        with torch.inference_mode():
            model.generate(tokens, attention_mask=torch.ones_like(tokens), **given)
        wait()
        return time.perf_counter() - begun

    cold, seconds = one(), one()
    return {"tokens_per_s": batch * new / seconds, "ms_per_token": seconds / new * 1e3, "first_call_s": cold}
