"""torch's attention at the same shapes and masks: flash (by document lengths where rows are packed) and cuDNN."""

import functools
import inspect
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import Sizes, documents, visible_pairs

Tensors = tuple[torch.Tensor, ...]


def measure(sizes: Sizes, rows: Rows) -> None:
    """Times each backend in each mask, and torch's own matmul ceiling."""
    rows.measure("matmul square", 3, functools.partial(ceiling, sizes))
    for mask in ("causal", "documents", "window"):
        for name, call in CALLS.items():
            for what in ("forward", "forward+backward"):
                one = functools.partial(cell, sizes, call, mask, what)
                rows.measure(f"{mask} {name} {what}", 3, one)


def device() -> str:
    """The GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_per_call(call: Callable[[], Any], sizes: Sizes) -> tuple[float, float]:
    """As `benchmarks.gpu.timing.seconds_per_call`."""
    for _ in range(2):
        call()
    wait()
    begun = time.perf_counter()
    call()
    wait()
    count = max(1, int(sizes.seconds / max(time.perf_counter() - begun, 1e-6)))
    groups = []
    for _ in range(sizes.repeats):
        begun = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        groups.append((time.perf_counter() - begun) / count)
    middle = statistics.median(groups)
    return middle, (max(groups) - min(groups)) / middle


def ceiling(sizes: Sizes) -> dict[str, float]:
    """A square bfloat16 product."""
    n = sizes.matmul
    a, b = (torch.randn(n, n, device=device(), dtype=torch.bfloat16) for _ in range(2))
    seconds, spread = seconds_per_call(lambda: a @ b, sizes)
    return {"tflops": 2 * n**3 / seconds / 1e12, "ms": seconds * 1e3, "spread": spread}


def made(sizes: Sizes) -> Tensors:
    """Random q `[B, S, H, h]`, k and v `[B, S, K, h]`, and a gradient of the output."""
    m, shape = sizes.model, (sizes.attention_rows, sizes.sequence)
    heads = (m.heads, m.kv_heads, m.kv_heads, m.heads)
    return tuple(torch.randn(*shape, n, m.head_dim, device=device(), dtype=torch.bfloat16) for n in heads)


def mask_of(sizes: Sizes, mask: str) -> tuple[np.ndarray, int | None]:
    """Segment ids `[B, S]`, all one where rows are whole, and the window."""
    segments = documents(sizes.attention_rows, sizes.sequence, sizes.document)
    whole = np.ones_like(segments)
    return (segments if mask == "documents" else whole), (sizes.window if mask == "window" else None)


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: np.ndarray, window: int | None) -> Any:
    """FlashAttention: SDPA's where the mask is causal, by document lengths or a window otherwise."""
    whole = (segments == 1).all()
    if whole and window is None:
        return sdpa(SDPBackend.FLASH_ATTENTION, q, k, v, None)
    if not q.is_cuda:
        raise NotImplementedError("flash attention by document lengths runs on a GPU only")
    from torch.nn.attention.varlen import varlen_attn

    ends = np.flatnonzero(np.diff(segments, axis=1, append=0).reshape(-1)) + 1
    cumulative = torch.tensor([0, *ends.tolist()], dtype=torch.int32, device=q.device)
    most = int(np.diff([0, *ends]).max())
    b, s = q.shape[:2]
    flat = (x.reshape(b * s, *x.shape[2:]) for x in (q, k, v))
    left = -1 if window is None else window - 1
    options = {"window_size": (left, 0), "enable_gqa": True}
    known = inspect.signature(varlen_attn).parameters  # they came one after the other
    if "window_size" not in known:
        if window is not None:
            raise NotImplementedError("this torch has no window in varlen_attn")
        options = {"is_causal": True, "enable_gqa": True}
    given = {name: value for name, value in options.items() if name in known}
    return varlen_attn(*flat, cumulative, cumulative, most, most, **given).reshape(q.shape)


def cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: np.ndarray, window: int | None) -> Any:
    """cuDNN through SDPA; documents and windows only as a dense mask."""
    whole = (segments == 1).all()
    mask = None if whole and window is None else _dense(torch.tensor(segments, device=q.device), window)
    return sdpa(SDPBackend.CUDNN_ATTENTION, q, k, v, mask)


@functools.lru_cache(maxsize=1)
def _masks() -> dict[int, torch.Tensor]:
    return {}


def _dense(ids: torch.Tensor, window: int | None) -> torch.Tensor:
    key = window or 0
    if key not in _masks():
        i = torch.arange(ids.shape[1], device=ids.device)
        seen = (ids[:, :, None] == ids[:, None]) & (i[:, None] >= i)
        _masks()[key] = (seen if window is None else seen & (i[:, None] - i < window))[:, None]
    return _masks()[key]


def sdpa(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """torch's scaled dot product by one backend; on a CPU by whichever there is."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(backend if q.is_cuda else SDPBackend.MATH):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2)


CALLS: dict[str, Callable[..., Any]] = {"torch flash": flash, "torch cudnn": cudnn}


def cell(sizes: Sizes, call: Callable[..., Any], mask: str, what: str) -> dict[str, Any]:
    """Time of one mask, counted as `sections.kernels.cell` counts it."""
    q, k, v, g = made(sizes)
    segments, window = mask_of(sizes, mask)
    forward = what == "forward"

    def run() -> Any:
        if forward:
            with torch.no_grad():
                return call(q, k, v, segments, window)
        return torch.autograd.grad(call(q, k, v, segments, window), (q, k, v), g)

    for x in (q, k, v):
        x.requires_grad_(not forward)
    seconds, spread = seconds_per_call(run, sizes)
    m = sizes.model
    flops = visible_pairs(segments, window) * m.heads * m.head_dim * 4 * (1.0 if forward else 3.5)
    return {"ms": seconds * 1e3, "tflops": flops / seconds / 1e12, "spread": spread}
