"""The same train step under torch.compile on a CPU: the same parameters, packed documents, clipping and AdamW."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu.torch_llama import Llama
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params


def start(
    config: ModelConfig, params: Params, batch: dict[str, np.ndarray], rate: float, threads: int
) -> Callable[[], float]:
    """Returns a compiled step that returns its loss; the first call compiles.

    Args:
        config: a dense Llama with a tied head.
        params: what to start from, NumPy arrays.
        batch: rows `[B, S]`; `segment_ids` say which tokens see each other.
        rate: the learning rate.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    model = Llama(config)
    load(model, params)
    rows = {name: torch.tensor(a) for name, a in batch.items()}
    ids = rows["segment_ids"]
    causal = torch.ones(2 * ids.shape[1:], dtype=torch.bool).tril()
    seen = ((ids[:, :, None] == ids[:, None, :]) & causal)[:, None]  # [B, 1, S, S]
    attend = functools.partial(F.scaled_dot_product_attention, attn_mask=seen, enable_gqa=True)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8, fused=True)

    @torch.compile
    def loss_of(tokens: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return model(tokens, targets, positions, attend)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(rows["tokens"], rows["targets"].long(), rows["positions"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        return float(loss.detach())

    return step


def load(model: Llama, params: Any) -> None:
    """Copies jaxpt's parameters into torch's model."""

    def put(into: torch.Tensor, value: np.ndarray) -> None:
        into.copy_(torch.tensor(np.asarray(value)))

    blocks, d = params["blocks"]["dense"], model.c.embed
    with torch.no_grad():
        put(model.embed.weight, params["embed"]["table"])
        put(model.norm.weight, params["final_norm"])
        for i, layer in enumerate(model.layers):
            for name in ("q", "k", "v"):
                put(getattr(layer, name).weight, blocks[name][i].reshape(d, -1).T)
            put(layer.o.weight, blocks["o"][i].reshape(-1, d).T)
            for name in ("gate", "up", "down"):
                put(getattr(layer, name).weight, blocks[name][i].T)
            for name in ("attn_norm", "mlp_norm"):
                put(getattr(layer, name).weight, blocks[name][i])
