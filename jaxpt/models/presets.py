"""Model shapes by name: the Llama 3 and Qwen 2.5 sizes, open mixtures of experts, and tiny ones for a laptop."""

from typing import Any

from jaxpt.errors import JaxptError, nearest
from jaxpt.models.config import LayerSpec, ModelConfig, RopeConfig, uniform_layers
from jaxpt.models.moe_config import MoeConfig


def _llama3(layers: int, embed: int, heads: int, mlp: int, *, rope_factor: float = 0.0, **more: Any) -> ModelConfig:
    """Llama 3.x; `rope_factor` 0 is Llama 3.0 (8,192 positions), else 3.1 and 3.2 (131,072)."""
    rope = RopeConfig(theta=500_000.0)
    if rope_factor:
        rope = RopeConfig("llama3", 500_000.0, rope_factor, original_max_positions=8192)
    base: dict[str, Any] = {
        "vocab_size": 128_256,
        "kv_heads": 8,
        "head_dim": embed // heads,
        "max_positions": 131_072 if rope_factor else 8192,
    }
    return ModelConfig(embed=embed, heads=heads, mlp=mlp, layers=uniform_layers(layers), rope=rope, **(base | more))


def _qwen25(layers: int, embed: int, heads: int, kv_heads: int, mlp: int, vocab: int, tied: bool) -> ModelConfig:
    """Qwen 2.5 (arXiv 2412.15115, table 1): biases on q, k and v."""
    return ModelConfig(
        vocab_size=vocab,
        embed=embed,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=embed // heads,
        mlp=mlp,
        layers=uniform_layers(layers),
        norm_eps=1e-6,
        qkv_bias=True,
        tie_embeddings=tied,
        rope=RopeConfig(theta=1_000_000.0),
        max_positions=32_768,
    )


def _tiny(layers: int, embed: int, heads: int, kv_heads: int, mlp: int, vocab: int = 4096) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab,
        embed=embed,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=embed // heads,
        mlp=mlp,
        layers=uniform_layers(layers),
        tie_embeddings=True,
        max_positions=1024,
    )


def _mixture(layers: int, **more: Any) -> ModelConfig:
    """A published mixture of experts: one in every layer, heads of 128."""
    base: dict[str, Any] = {
        "embed": 2048,
        "norm_eps": 1e-6,
        "rope": RopeConfig(theta=1_000_000.0),
        "vocab_size": 151_936,
    }
    return ModelConfig(layers=uniform_layers(layers, ffn="moe"), head_dim=128, **(base | more))


PRESETS: dict[str, ModelConfig] = {
    "llama3-8b": _llama3(32, 4096, 32, 14_336),
    "llama3-70b": _llama3(80, 8192, 64, 28_672),
    "llama3.1-8b": _llama3(32, 4096, 32, 14_336, rope_factor=8.0),
    "llama3.1-70b": _llama3(80, 8192, 64, 28_672, rope_factor=8.0),
    "llama3.1-405b": _llama3(126, 16_384, 128, 53_248, rope_factor=8.0),
    "llama3.2-1b": _llama3(16, 2048, 32, 8192, rope_factor=32.0, tie_embeddings=True),
    "llama3.2-3b": _llama3(28, 3072, 24, 8192, rope_factor=32.0, tie_embeddings=True),
    "qwen2.5-0.5b": _qwen25(24, 896, 14, 2, 4864, 151_936, True),
    "qwen2.5-1.5b": _qwen25(28, 1536, 12, 2, 8960, 151_936, True),
    "qwen2.5-3b": _qwen25(36, 2048, 16, 2, 11_008, 151_936, True),
    "qwen2.5-7b": _qwen25(28, 3584, 28, 4, 18_944, 152_064, False),
    "qwen2.5-14b": _qwen25(48, 5120, 40, 8, 13_824, 152_064, False),
    "qwen2.5-32b": _qwen25(64, 5120, 40, 8, 27_648, 152_064, False),
    "qwen2.5-72b": _qwen25(80, 8192, 64, 8, 29_568, 152_064, False),
    "mixtral-8x7b": _mixture(
        layers=32,
        embed=4096,
        heads=32,
        kv_heads=8,
        mlp=14_336,
        moe=MoeConfig(8, 2, 14_336),
        norm_eps=1e-5,
        qk_norm="none",
        vocab_size=32_000,
        max_positions=32_768,
    ),
    "olmoe-1b-7b": _mixture(
        layers=16,
        heads=16,
        kv_heads=16,
        mlp=1024,
        moe=MoeConfig(64, 8, 1024, weights="softmax"),
        norm_eps=1e-5,
        qk_norm="full",
        vocab_size=50_304,
        rope=RopeConfig(),
        max_positions=4096,
    ),
    "qwen1.5-moe-a2.7b": _mixture(
        layers=24,
        heads=16,
        kv_heads=16,
        mlp=5632,
        moe=MoeConfig(60, 4, 1408, shared_mlp=5632, shared_score=True, weights="softmax"),
        qkv_bias=True,
        qk_norm="none",
        max_positions=8192,
    ),
    "qwen3-30b-a3b": _mixture(
        layers=48, heads=32, kv_heads=4, mlp=6144, moe=MoeConfig(128, 8, 768), max_positions=40_960
    ),
    "tiny-0.2m": _tiny(2, 64, 4, 2, 176, 1024),
    "tiny-0.5m": _tiny(4, 96, 6, 2, 256, 1024),
    "tiny-1m": _tiny(4, 128, 4, 2, 352, 2048),
    "tiny-moe-2m": _tiny(4, 128, 4, 2, 352, 2048).replace(  # the FLOPs of tiny-1m
        layers=(LayerSpec(), *uniform_layers(3, ffn="moe")), moe=MoeConfig(8, 2, 176), qk_norm="head"
    ),
    "tiny-7m": _tiny(8, 256, 8, 4, 704, 4096),
    "tiny-8m": _tiny(8, 256, 8, 4, 704, 8192),
}


def preset(name: str) -> ModelConfig:
    """Returns the model shape called `name`.

    Raises:
        JaxptError: no such preset, with the nearest name.
    """
    if name not in PRESETS:
        raise JaxptError(f"model preset {name!r} is unknown{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
