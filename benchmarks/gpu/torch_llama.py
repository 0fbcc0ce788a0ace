"""The same Llama in torch, written as one does for torch.compile: RMSNorm, rotary embedding, GQA, SwiGLU, tied head."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from jaxpt.models.config import ModelConfig

Rope = tuple[torch.Tensor, torch.Tensor]


class Layer(nn.Module):
    """One layer; `attend(q, k, v)` is given by the model, so that the mask is made once."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        d, h, kv = c.embed, c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.c = c
        self.attn_norm, self.mlp_norm = nn.RMSNorm(d, c.norm_eps), nn.RMSNorm(d, c.norm_eps)
        self.q, self.k, self.v = (nn.Linear(d, n, bias=False) for n in (h, kv, kv))
        self.o = nn.Linear(h, d, bias=False)
        self.gate, self.up = nn.Linear(d, c.mlp, bias=False), nn.Linear(d, c.mlp, bias=False)
        self.down = nn.Linear(c.mlp, d, bias=False)

    def forward(self, x: torch.Tensor, rope: Rope, attend: Any) -> torch.Tensor:
        """Returns the stream `[B, S, D]` after this layer."""
        b, s, _ = x.shape
        y = self.attn_norm(x)
        q, k, v = (
            m(y).view(b, s, n, self.c.head_dim).transpose(1, 2)
            for m, n in ((self.q, self.c.heads), (self.k, self.c.kv_heads), (self.v, self.c.kv_heads))
        )
        out = attend(rotate(q, rope), rotate(k, rope), v)
        x = x + self.o(out.transpose(1, 2).reshape(b, s, -1))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """The model: mean cross-entropy of `targets [B, S]` after `tokens [B, S]`."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.embed)
        self.layers = nn.ModuleList(Layer(c) for _ in c.layers)
        self.norm = nn.RMSNorm(c.embed, c.norm_eps)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(
        self, tokens: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor, attend: Any
    ) -> torch.Tensor:
        """Returns the loss."""
        half = self.c.head_dim // 2
        speed = self.c.rope.theta ** (-torch.arange(half, device=tokens.device, dtype=torch.float32) / half)
        angle = positions[:, None, :, None].float() * speed
        rope = angle.cos(), angle.sin()
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, rope, attend)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Rotates the pairs (i, i + h/2) of `x [B, N, S, h]` in float32."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = rope
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
