"""The train step of the same model under torch.compile, each kind of attention that torch has, best first."""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections.torch_attention import device, seconds_per_call, wait
from benchmarks.gpu.sizes import Sizes, documents, positions, visible_flops_per_token
from benchmarks.gpu.torch_llama import Llama
from jaxpt.training.speed import PEAK_FLOPS

SDPA = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def measure(sizes: Sizes, rows: Rows) -> None:
    """Whole rows by SDPA's backends, then packed rows by FlexAttention; float32 parameters under bfloat16 autocast."""
    torch.set_float32_matmul_precision("high")
    small, large = sizes.batches[0], sizes.batches[-1]
    tries = [("cudnn", small, False), ("flex", small, True), ("flash", small, False), ("cudnn", large, False)]
    for attention, batch, packed in tries if torch.cuda.is_available() else [("flash", small, False)]:
        name = f"torch.compile {'packed' if packed else 'whole rows'}, batch {batch}, attention {attention}"
        rows.measure(name, 25, functools.partial(run, sizes, attention, batch, packed))
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def attend_by(attention: str, ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Causal attention within documents, of q `[B, H, S, h]`."""
    if attention == "flex":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def seen(b: Any, h: Any, q: Any, k: Any) -> Any:
            return (q >= k) & (ids[b, q] == ids[b, k])

        b, s = ids.shape
        mask = create_block_mask(seen, b, None, s, s, device=ids.device)
        return lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    return functools.partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)


def run(sizes: Sizes, attention: str, batch: int, packed: bool) -> dict[str, Any]:
    """Compiles the step, takes steps, and returns what they cost; the fused AdamW clips as jaxpt's does."""
    where = device()
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(0, sizes.model.vocab_size, (batch, sizes.sequence + 1)), device=where)
    shape = (batch, sizes.sequence)
    ids = documents(*shape, sizes.document) if packed else np.ones(shape, np.int32)
    at, segments = (torch.tensor(a, device=where) for a in (positions(ids), ids))
    with torch.device(where):
        model = Llama(sizes.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    attend = attend_by(attention, segments)
    backend = SDPA.get(attention, SDPBackend.MATH) if where == "cuda" else SDPBackend.MATH

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return model(x, y, at, attend)

    compiled = torch.compile(loss_of) if where == "cuda" else loss_of  # a CPU's compiler is not what is measured

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with sdpa_kernel(backend), torch.autocast(where, torch.bfloat16):
            loss = compiled(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        return loss.detach()

    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    first = float(step())
    wait()
    compile_s = time.perf_counter() - begun
    seconds, spread = seconds_per_call(step, sizes)
    count = batch * sizes.sequence
    peak = PEAK_FLOPS.get(torch.cuda.get_device_name() if where == "cuda" else "", 1e12)
    return {
        "tokens_per_s": count / seconds,
        "mfu": count / seconds * visible_flops_per_token(sizes, ids) / peak,
        "step_ms": seconds * 1e3,
        "spread": spread,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if where == "cuda" else 0.0,
        "compile_s": compile_s,
        "loss": f"{first:.4f} to {float(step()):.4f}",
    }
